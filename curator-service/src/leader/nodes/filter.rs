//! The filter of `GetNodes`: a CEL expression that is evaluated for each node.
//!
//! The expression sees a node as a map with all fields; unset fields have their default, as CEL specifies for messages.
//! `has()` needs to know whether a field is set, so the map has a second key per field, and `has()` is rewritten to
//! test it.

mod budget;
mod constants;
mod evaluate;
#[cfg(any(test, fuzzing))]
pub(in crate::leader) mod grammar;
#[cfg(test)]
mod hostile;
mod patterns;
mod told;
mod turns;
mod types;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use budget::Budget;
use cel::common::ast::{EntryExpr, Expr, LiteralValue};
use cel::objects::Key;
use cel::{Context, Env, IdedExpr, Value};
use curator_election::clock::SharedClock;
use curator_proto::common::NodeState;
use curator_proto::management_api::Node;
use curator_proto::management_api::node::Health;
use evaluate::{Evaluation, Stop};
use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage};
use told::told;
use tonic::Status;
pub(in crate::leader) use turns::{Turn, Turns};

/// Maximum length of a filter, in bytes.
const MAX_FILTER_BYTES: usize = 4_096;
/// Maximum nesting depth of `all`, `exists` and similar macros: each level iterates over a list.
const MAX_NESTED_LOOPS: usize = 2;

/// Maximum nesting depth of brackets.
const MAX_BRACKETS: usize = 64;

/// The `nice` value of filter threads, below the threads that serve calls.
const BEHIND: i32 = 10;

/// The stack size. Parser and evaluation recurse with the nesting of the expression; this suffices for the deepest one.
const STACK: usize = 64 << 20;

/// Evaluates a filter for the nodes. Returns the indices of the matching nodes, and the error that stopped the
/// evaluation, if any.
///
/// Evaluation runs on a thread of its own, for its stack size and to not block the caller's thread. It stops early when
/// the call is cancelled or a limit is exceeded; the turn ends with it.
pub(in crate::leader) async fn kept(
    text: String,
    nodes: impl Iterator<Item = Node> + Send + 'static,
    clock: SharedClock,
    turn: Turn,
) -> Result<(Vec<usize>, Option<Status>), Status> {
    let (done, kept) = tokio::sync::oneshot::channel();
    let gone = Arc::new(AtomicBool::new(false));
    let _ends = Ends(gone.clone());
    let look = move || {
        let _turn = turn;
        // Calls have priority over filters. On Linux this affects only the current thread; if it is not permitted, the
        // priority stays.
        let _ = rustix::process::nice(BEHIND);
        let mut budget = Budget::new(clock, move || gone.load(Ordering::Relaxed));
        let answer = Filter::compile(&text).map(|filter| filter.keep(nodes, &mut budget));
        // A cancelled caller needs no result.
        let _ = done.send(answer);
    };
    let failed = || Status::resource_exhausted("filter: cannot start an evaluation thread");
    std::thread::Builder::new()
        .name("filter".into())
        .stack_size(STACK)
        .spawn(look)
        .map_err(|_| failed())?;
    kept.await.map_err(|_| Status::internal("filter: evaluation failed"))?
}

/// Signals on drop that the call was cancelled.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Compiles and evaluates a filter for one node, on a thread as [`kept`] does.
#[cfg(any(test, fuzzing))]
pub(in crate::leader) fn ask(text: &str, node: &Node) -> Option<bool> {
    std::thread::scope(|scope| {
        let look = || {
            let clock: SharedClock = Arc::new(curator_election::clock::BootClock);
            let mut budget = Budget::new(clock, || false);
            let mut kept = evaluate::Kept::default();
            Filter::compile(text).ok()?.keeps(node, &mut budget, &mut kept).ok()
        };
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, look);
        thread
            .ok()?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A compiled filter.
struct Filter {
    /// `None` matches every node.
    expression: Option<IdedExpr>,
    fields: Fields,
    root: Context<'static, 'static>,
}

impl Filter {
    /// Compiles a filter; an empty one matches every node.
    fn compile(text: &str) -> Result<Self, Status> {
        let env = Arc::new(Env::stdlib());
        let mut root = Context::with_env(env.clone());
        for state in [
            NodeState::Invalid,
            NodeState::New,
            NodeState::Standby,
            NodeState::Up,
            NodeState::Decommissioned,
        ] {
            root.add_variable_from_value(state.as_str_name(), i64::from(i32::from(state)));
        }
        for health in [
            Health::Invalid,
            Health::Unknown,
            Health::Healthy,
            Health::HeartbeatTimeout,
        ] {
            root.add_variable_from_value(health.as_str_name(), i64::from(i32::from(health)));
        }
        if text.is_empty() {
            return Ok(Self {
                expression: None,
                fields: Fields::default(),
                root,
            });
        }
        if text.len() > MAX_FILTER_BYTES {
            return Err(Status::invalid_argument("filter: must be at most 4,096 bytes"));
        }
        if told::depth(text) > MAX_BRACKETS {
            return Err(Status::invalid_argument(format!(
                "filter: brackets are nested too deep (max {MAX_BRACKETS})"
            )));
        }
        let program = env
            .compile(text)
            .map_err(|errors| Status::invalid_argument(format!("filter: {}", told(&errors))))?;
        let mut expression = program.expression().clone();
        types::check(&expression).map_err(|wrong| Status::invalid_argument(format!("filter: {}", told(&wrong))))?;
        let mut known = Known {
            constants: &root,
            bound: Vec::new(),
            fields: Fields::default(),
        };
        known.prepare(&mut expression, 0)?;
        let fields = known.fields;
        Ok(Self {
            expression: Some(expression),
            fields,
            root,
        })
    }

    /// Returns the indices of the matching nodes, and the error that stopped the evaluation, if any.
    fn keep(&self, nodes: impl Iterator<Item = Node>, budget: &mut Budget) -> (Vec<usize>, Option<Status>) {
        let mut passed = Vec::new();
        let mut kept = evaluate::Kept::default();
        for (at, node) in nodes.enumerate() {
            match self.keeps(&node, budget, &mut kept) {
                Ok(true) => passed.push(at),
                Ok(false) => {}
                Err(status) => return (passed, Some(status)),
            }
        }
        (passed, None)
    }

    /// Whether a node matches.
    fn keeps(&self, node: &Node, budget: &mut Budget, kept: &mut evaluate::Kept) -> Result<bool, Status> {
        let Some(expression) = &self.expression else {
            return Ok(true);
        };
        budget.next_node()?;
        let node = value(node, &self.fields)?;
        match Evaluation::new(&self.root, budget, kept, node).value(expression) {
            Ok(Value::Bool(keeps)) => Ok(keeps),
            // Strings that Go parses as booleans also count, as in the original.
            Ok(Value::String(text)) if ["1", "t", "T", "true", "TRUE", "True"].contains(&text.as_str()) => Ok(true),
            Ok(Value::String(text)) if ["0", "f", "F", "false", "FALSE", "False"].contains(&text.as_str()) => Ok(false),
            Ok(other) => Err(Status::invalid_argument(format!(
                "filter: must evaluate to a boolean, got {}",
                other.type_of()
            ))),
            Err(Stop::Error(error)) => Err(Status::unavailable(format!("filter: {}", told(&error)))),
            Err(Stop::Spent(spent)) => Err(spent.into()),
        }
    }
}

/// The names that an expression may use.
struct Known<'a> {
    constants: &'a Context<'static, 'static>,
    /// The variables of the enclosing loops.
    bound: Vec<String>,
    fields: Fields,
}

/// The fields that an expression uses. Only these are converted, since conversion is most of the cost of a filter.
#[derive(Default)]
struct Fields {
    named: HashSet<String>,
    /// A whole message is compared or passed to a function, so every field may matter.
    all: bool,
}

impl Fields {
    fn has(&self, name: &str) -> bool {
        self.all || self.named.contains(name)
    }
}

/// The prefix of all fully qualified names.
const PACKAGES: &str = "metropolis";
/// The names of CEL's own types.
const TYPES: [&str; 11] = [
    "bool",
    "bytes",
    "double",
    "duration",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "timestamp",
    "uint",
];

impl Known<'_> {
    /// Rewrites `has()` tests, and refuses unknown names and expressions that would take too long.
    fn prepare(&mut self, expression: &mut IdedExpr, nested: usize) -> Result<(), Status> {
        if self.is_constant(expression) {
            return Ok(());
        }
        match &mut expression.expr {
            Expr::Ident(name) => {
                self.fields.all |= self.is_variable(name);
                self.check_name(name)
            }
            Expr::Select(select) => {
                // A message, or a list of messages, that is used as a whole.
                self.fields.all |= !select.test && is_message(&select.field);
                self.prepare_path(expression, nested)
            }
            Expr::Call(call) => {
                if let Some(target) = &mut call.target {
                    self.prepare(target, nested)?;
                }
                call.args.iter_mut().try_for_each(|arg| self.prepare(arg, nested))
            }
            Expr::Comprehension(loops) => {
                if nested == MAX_NESTED_LOOPS {
                    return Err(Status::invalid_argument("filter: loops are nested too deep (max 2)"));
                }
                // The loop body decides which fields of the elements are used.
                self.prepare_path(&mut loops.iter_range, nested)?;
                self.prepare(&mut loops.accu_init, nested)?;
                let outside = self.bound.len();
                self.bound.extend([loops.iter_var.clone(), loops.accu_var.clone()]);
                self.bound.extend(loops.iter_var2.clone());
                for inner in [&mut loops.loop_cond, &mut loops.loop_step, &mut loops.result] {
                    self.prepare(inner, nested + 1)?;
                }
                self.bound.truncate(outside);
                Ok(())
            }
            Expr::List(list) => list
                .elements
                .iter_mut()
                .try_for_each(|element| self.prepare(element, nested)),
            Expr::Map(map) => map
                .entries
                .iter_mut()
                .try_for_each(|entry| self.prepare_entry(&mut entry.expr, nested)),
            Expr::Struct(fields) => fields
                .entries
                .iter_mut()
                .try_for_each(|entry| self.prepare_entry(&mut entry.expr, nested)),
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    /// Like `rewrite`, for an operand of which only a field or the elements are used.
    fn prepare_path(&mut self, expression: &mut IdedExpr, nested: usize) -> Result<(), Status> {
        if self.is_constant(expression) {
            return Ok(());
        }
        match &mut expression.expr {
            Expr::Ident(name) => self.check_name(name),
            Expr::Select(select) => {
                if select.test && is_path(&select.operand.expr) {
                    select.field = has(&select.field);
                    select.test = false;
                }
                self.fields.named.insert(select.field.clone());
                self.prepare_path(&mut select.operand, nested)
            }
            _ => self.prepare(expression, nested),
        }
    }

    fn prepare_entry(&mut self, entry: &mut EntryExpr, nested: usize) -> Result<(), Status> {
        match entry {
            EntryExpr::StructField(field) => self.prepare(&mut field.value, nested),
            EntryExpr::MapEntry(entry) => {
                self.prepare(&mut entry.key, nested)?;
                self.prepare(&mut entry.value, nested)
            }
        }
    }

    /// Replaces the fully qualified name of an enum value by its number.
    fn is_constant(&self, expression: &mut IdedExpr) -> bool {
        let number = constants::named(&expression.expr).filter(|_| !self.bound.iter().any(|bound| bound == PACKAGES));
        if let Some(number) = number {
            expression.expr = Expr::Literal(LiteralValue::Int(number.into()));
        }
        number.is_some()
    }

    /// Whether the name may refer to a message: the node, or a list element. CEL itself names the accumulator of a
    /// loop.
    fn is_variable(&self, name: &str) -> bool {
        let of_loop = self.bound.iter().any(|bound| bound == name);
        name == "node" || (of_loop && !name.starts_with('@') && !name.starts_with("__"))
    }

    fn check_name(&self, name: &str) -> Result<(), Status> {
        let known = self.is_variable(name)
            || TYPES.contains(&name)
            || self.bound.iter().any(|bound| bound == name)
            || self.constants.get_variable(name).is_some();
        if known {
            Ok(())
        } else {
            Err(Status::invalid_argument(format!(
                "filter: unknown identifier {:?}; use `node` or an enum value such as NODE_STATE_UP",
                told(name)
            )))
        }
    }
}

/// Whether a field of this name may hold a message or a list of messages.
fn is_message(field: &str) -> bool {
    static MESSAGES: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(curator_proto::FILE_DESCRIPTOR_SET).ok();
        let messages = pool.iter().flat_map(DescriptorPool::all_messages);
        let fields = messages.flat_map(|message| message.fields().collect::<Vec<_>>());
        fields
            .filter(|field| match field.kind() {
                // Timestamps and durations are values, not messages.
                Kind::Message(message) => message.package_name() != "google.protobuf",
                _ => false,
            })
            .map(|field| field.name().to_owned())
            .collect()
    });
    MESSAGES.contains(field)
}

/// Whether the expression is a variable or a field of one, not a map literal.
fn is_path(expression: &Expr) -> bool {
    match expression {
        Expr::Ident(_) => true,
        Expr::Select(select) => is_path(&select.operand.expr),
        _ => false,
    }
}

/// The key that tells whether a field is set. Field names contain no spaces, so it cannot collide.
fn has(field: &str) -> String {
    format!("has {field}")
}

fn value(node: &Node, fields: &Fields) -> Result<Value, Status> {
    static NODE: LazyLock<Option<MessageDescriptor>> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(curator_proto::FILE_DESCRIPTOR_SET).ok()?;
        pool.get_message_by_name(&Node::full_name())
    });
    let descriptor = NODE
        .clone()
        .ok_or_else(|| Status::unavailable("filter: no descriptor for Node"))?;
    let mut message = DynamicMessage::new(descriptor);
    message
        .transcode_from(node)
        .map_err(|error| Status::unavailable(format!("filter: {error}")))?;
    Ok(of_message(&message, fields))
}

fn of_message(message: &DynamicMessage, fields: &Fields) -> Value {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Duration" => {
            let (seconds, nanos) = seconds_and_nanos(message);
            return chrono::Duration::new(seconds, nanos).map_or(Value::Null, Value::Duration);
        }
        "google.protobuf.Timestamp" => {
            let (seconds, nanos) = seconds_and_nanos(message);
            let time = chrono::DateTime::from_timestamp(seconds, nanos);
            return time.map_or(Value::Null, |time| Value::Timestamp(time.fixed_offset()));
        }
        _ => {}
    }
    let mut map: HashMap<Key, Value> = HashMap::new();
    for field in descriptor.fields() {
        let set = message.has_field(&field);
        let asked = has(field.name());
        if fields.has(&asked) {
            map.insert(asked.into(), Value::Bool(set));
        }
        // A list that is iterated over is named as well, and so are the fields of its elements.
        if !fields.has(field.name()) {
            continue;
        }
        let value = match (field.kind(), set) {
            // An unset message reads as an empty one. The messages of a node are not recursive.
            (Kind::Message(nested), false) if !field.is_list() => of_message(&DynamicMessage::new(nested), fields),
            _ => of_value(&message.get_field(&field), fields),
        };
        map.insert(field.name().into(), value);
    }
    Value::Map(cel::objects::Map { map: Arc::new(map) })
}

fn seconds_and_nanos(message: &DynamicMessage) -> (i64, u32) {
    let number = |name| message.get_field_by_name(name).map(std::borrow::Cow::into_owned);
    let seconds = number("seconds").and_then(|seconds| seconds.as_i64()).unwrap_or(0);
    let nanos = number("nanos").and_then(|nanos| nanos.as_i32()).unwrap_or(0);
    (seconds, u32::try_from(nanos).unwrap_or(0))
}

fn of_value(value: &prost_reflect::Value, fields: &Fields) -> Value {
    use prost_reflect::Value as Field;
    match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::I32(value) => Value::Int((*value).into()),
        Field::I64(value) => Value::Int(*value),
        Field::EnumNumber(value) => Value::Int((*value).into()),
        Field::U32(value) => Value::UInt((*value).into()),
        Field::U64(value) => Value::UInt(*value),
        Field::F32(value) => Value::Float((*value).into()),
        Field::F64(value) => Value::Float(*value),
        Field::String(value) => Value::String(Arc::new(value.clone())),
        Field::Bytes(value) => Value::Bytes(Arc::new(value.to_vec())),
        Field::Message(value) => of_message(value, fields),
        Field::List(values) => Value::List(Arc::new(values.iter().map(|value| of_value(value, fields)).collect())),
        // The messages of a node have no map fields.
        Field::Map(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use curator_proto::common::node_roles::KubernetesWorker;
    use curator_proto::common::{NodeLabels, NodeRoles, NodeStatus, node_labels};
    use prost_types::Duration;
    use tonic::Code;

    use super::*;
    use crate::auth::Caller;

    pub(in crate::leader) fn node() -> Node {
        Node {
            id: "metropolis-1".into(),
            pubkey: vec![1, 2],
            state: NodeState::Up.into(),
            health: Health::Healthy.into(),
            roles: Some(NodeRoles {
                kubernetes_worker: Some(KubernetesWorker {}),
                ..NodeRoles::default()
            }),
            labels: Some(NodeLabels {
                pairs: [("rack", "r1"), ("rack2", "r1")]
                    .map(|(key, value)| node_labels::Pair {
                        key: key.into(),
                        value: value.into(),
                    })
                    .into(),
            }),
            time_since_heartbeat: Some(Duration { seconds: 5, nanos: 0 }),
            ..Node::default()
        }
    }

    fn owner() -> Caller {
        Caller::User {
            identity: "owner".into(),
        }
    }

    async fn keeps(filter: &str) -> Result<bool, Code> {
        keeps_of(filter, node()).await
    }

    async fn keeps_of(filter: &str, node: Node) -> Result<bool, Code> {
        let turn = Turns::default().next(&owner()).await.unwrap();
        let clock = Arc::new(curator_election::clock::BootClock);
        match kept(filter.into(), vec![node].into_iter(), clock, turn).await {
            Ok((_, Some(status))) | Err(status) => Err(status.code()),
            Ok((kept, None)) => Ok(!kept.is_empty()),
        }
    }

    #[tokio::test]
    async fn fields_states_roles_and_times() {
        for yes in [
            "",
            "node.state == NODE_STATE_UP",
            "node.health == HEALTH_HEALTHY && node.state != NODE_STATE_NEW",
            "has(node.roles.kubernetes_worker)",
            "!has(node.roles.consensus_member)",
            "node.time_since_heartbeat < duration('6s') && node.time_since_heartbeat > duration('4s')",
            "node.labels.pairs.exists(pair, pair.key == 'rack' && pair.value == 'r1')",
            "node.id.startsWith('metropolis-')",
            "node.id in ['a', 'metropolis-1']",
            "node.pubkey == b'\\x01\\x02'",
            "has({'a': 1}.a)",
            // Whole messages.
            "node == node && size(node) > 8",
            "node.labels.pairs.all(a, node.labels.pairs.exists(b, a == b))",
            "node.labels.pairs == [{'key': 'rack', 'has key': true, 'value': 'r1', 'has value': true}] || true",
            "node.labels.pairs.map(pair, pair.key) == ['rack', 'rack2']",
            "node.labels.pairs[0].value == 'r1' && node.labels.pairs[0] != node.labels.pairs[1]",
            "node.roles != node.status",
        ] {
            assert_eq!(keeps(yes).await, Ok(true), "{yes}");
        }
        assert_eq!(keeps("node.time_since_heartbeat > duration('5s')").await, Ok(false));
        assert_eq!(keeps("node.state == NODE_STATE_NEW").await, Ok(false));
    }

    /// Fully qualified names, as in the original, which resolves them by descriptors.
    #[tokio::test]
    async fn values_of_enums_have_full_names_too() {
        for yes in [
            "node.state == metropolis.proto.common.NodeState.NODE_STATE_UP",
            "node.health == metropolis.proto.api.Node.Health.HEALTH_HEALTHY",
            "node.tpm_usage == metropolis.proto.common.NodeTPMUsage.NODE_TPM_USAGE_INVALID",
            "metropolis.proto.common.NodeState.NODE_STATE_UP == NODE_STATE_UP",
            "metropolis.proto.common.NodeState.NODE_STATE_UP in [3]",
            "[3].exists(state, state == metropolis.proto.common.NodeState.NODE_STATE_UP)",
            "[{'proto': 7}].exists(metropolis, metropolis.proto == 7)",
        ] {
            assert_eq!(keeps(yes).await, Ok(true), "{yes}");
        }
        for bad in [
            "node.state == metropolis.proto.common.NodeState.NODE_STATE_NOWHERE",
            "node.state == metropolis.proto.common.NodeState",
            "metropolis.proto.common.NodeState.NODE_STATE_UP == 'up'",
        ] {
            assert_eq!(keeps(bad).await, Err(Code::InvalidArgument), "{bad}");
        }
    }

    /// Type errors that hold for every node are refused before evaluation; others surface when a node is evaluated.
    #[tokio::test]
    async fn types_that_do_not_go_together_are_refused_with_the_originals_code() {
        for bad in [
            "1 == 'a'",
            "1 < 'a'",
            "1 == 1u",
            "1 < 2.0",
            "NODE_STATE_UP == 'up'",
            "!1",
            "1 && true",
            "true ? 1 : 'a'",
            "'a' + 1",
            "-'a'",
            "1 in ['a']",
            "1 in 2",
            "[1]['a']",
            "'a'.field == 1",
            "1.exists(x, true)",
            "[1].exists(x, x == 'a')",
            "size(1) == 1",
            "duration('1s') == 1",
            "duration(true) == node.time_since_heartbeat",
            "nothing(1)",
            "node.nothing()",
            "'a'.startsWith(1)",
            "node.id.startsWith(1)",
        ] {
            assert_eq!(keeps(bad).await, Err(Code::InvalidArgument), "{bad}");
        }
        for depends in ["node.id + 1 == 2", "node.state < 'a'", "node.id.nothing == 1"] {
            assert_eq!(keeps(depends).await, Err(Code::Unavailable), "{depends}");
        }
        for good in [
            "timestamp('2026-01-01T00:00:00Z') + duration('1s') > timestamp('2026-01-01T00:00:00Z')",
            "timestamp('2026-01-01T00:00:01Z') - timestamp('2026-01-01T00:00:00Z') == duration('1s')",
            "[1, 2].map(x, x + 1) == [2, 3] && [1, 'a'].size() == 2",
            "dyn(1) == dyn(1) && size('abc') == 3 && {'a': 1}['a'] == 1 && 'a' in {'a': 1}",
            "[1, 2].exists_one(x, x > 1) && [1, 2].filter(x, x > 1) == [2]",
            "(node.id == 'a' ? 1 : 2) == 2 && type(1) == int && int('3') * 2 % 4 == 2",
            "string(node.state) == '3' && node.id.matches('metropolis-[0-9]') && 2.0 / 2.0 == 1.0",
            "'true'",
        ] {
            assert_eq!(keeps(good).await, Ok(true), "{good}");
        }
    }

    /// A node without a status reads like one with an empty status.
    #[tokio::test]
    async fn what_is_not_set_has_its_default() {
        assert_eq!(keeps("node.status.external_address == ''").await, Ok(true));
        assert_eq!(keeps("has(node.status) || has(node.status.version)").await, Ok(false));
        assert_eq!(keeps("node.status.running_curator.port == 0").await, Ok(true));
        let with_status = Node {
            status: Some(NodeStatus::default()),
            ..node()
        };
        let filter = "has(node.status) && !has(node.status.external_address)";
        assert_eq!(keeps_of(filter, with_status).await, Ok(true));
    }

    #[tokio::test]
    async fn what_is_no_filter_is_refused_with_the_right_code() {
        let deep = format!("{}true{}", "(".repeat(1_000), ")".repeat(1_000));
        let wide = format!("{}true", "true && ".repeat(500));
        assert_eq!(keeps(&wide).await, Ok(true), "a wide expression nests deeply");
        let long = format!("node.id == '{}'", "x".repeat(5_000));
        let loops = "node.labels.pairs.all(a, node.labels.pairs.all(b, node.labels.pairs.all(c, a == b && b == c)))";
        for bad in [
            "node.",
            "(",
            "NODE_STATE_NOWHERE == 1",
            "nod.id == ''",
            "1 +",
            &deep,
            &long,
            loops,
            "'\u{0}",
        ] {
            assert_eq!(keeps(bad).await, Err(Code::InvalidArgument), "{bad:.100}");
        }
        for no_answer in ["node.nothing == 1", "1 / 0 == 1", "node.id > 5"] {
            assert_eq!(keeps(no_answer).await, Err(Code::Unavailable), "{no_answer}");
        }
        for no_bool in ["node.id", "1", "node", "null"] {
            assert_eq!(keeps(no_bool).await, Err(Code::InvalidArgument), "{no_bool}");
        }
    }
}
