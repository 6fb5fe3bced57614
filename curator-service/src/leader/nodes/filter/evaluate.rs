//! Evaluates an expression for a node within a [`Budget`].
//!
//! The CEL crate also has an evaluator, but without limits: an expression of 300 bytes can allocate terabytes.
//! Estimating the cost in advance would refuse useful expressions. So everything that allocates or repeats work is
//! evaluated here, step by step: names, fields, elements, lists, maps, loops and short-circuiting. Functions and
//! operators on values are the crate's; they are called once the size of their arguments is known, and none allocates
//! more than a few times that size. Regular expressions are the exception, since the crate limits neither their size
//! nor their number.
//!
//! Values are shared, not copied, so a few values can represent an exponentially large tree. [`Evaluation::weigh`]
//! traverses such a tree before any other code does.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, SelectExpr, operators};
use cel::objects::{Key, Map};
use cel::{Context, ExecutionError, IdedExpr, Value};

use crate::leader::nodes::filter::budget::{Budget, Spent};
use crate::leader::nodes::filter::patterns::Patterns;

/// The variable names of a function's arguments.
const ARGUMENTS: [&str; 6] = ["a0", "a1", "a2", "a3", "a4", "a5"];

/// Why an expression has no value.
pub(super) enum Stop {
    /// A CEL error. In `&&` and `||` the other operand may still decide.
    Error(ExecutionError),
    /// A limit was exceeded; final.
    Spent(Spent),
}

impl From<Spent> for Stop {
    fn from(spent: Spent) -> Self {
        Self::Spent(spent)
    }
}

impl From<ExecutionError> for Stop {
    fn from(error: ExecutionError) -> Self {
        Self::Error(error)
    }
}

type Answer = Result<Value, Stop>;

/// State that is kept from one node to the next.
#[derive(Default)]
pub(super) struct Kept {
    literals: HashMap<u64, Value>,
    patterns: Patterns,
}

/// The evaluation for one node.
pub(super) struct Evaluation<'a> {
    root: &'a Context<'static, 'static>,
    budget: &'a mut Budget,
    kept: &'a mut Kept,
    /// The node and the loop variables; the innermost is last.
    bound: Vec<(&'a str, Value)>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(
        root: &'a Context<'static, 'static>,
        budget: &'a mut Budget,
        kept: &'a mut Kept,
        node: Value,
    ) -> Self {
        Self {
            root,
            budget,
            kept,
            bound: vec![("node", node)],
        }
    }

    /// Evaluates an expression.
    pub(super) fn value(&mut self, expression: &'a IdedExpr) -> Answer {
        self.budget.steps(1)?;
        match &expression.expr {
            Expr::Literal(literal) => match self.kept.literals.get(&expression.id) {
                Some(value) => Ok(value.clone()),
                None => {
                    let value = Value::try_from(literal.to_val().as_ref())?;
                    self.kept.literals.insert(expression.id, value.clone());
                    Ok(value)
                }
            },
            Expr::Ident(name) => match self.bound.iter().rev().find(|(bound, _)| bound == name) {
                Some((_, value)) => Ok(value.clone()),
                None => Ok(Value::resolve(expression, self.root)?),
            },
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                self.budget.bytes(list.elements.len() * size_of::<Value>() + OVERHEAD)?;
                let mut values = Vec::with_capacity(list.elements.len());
                for element in &list.elements {
                    values.push(self.value(element)?);
                }
                Ok(Value::List(Arc::new(values)))
            }
            Expr::Map(map) => {
                let mut values: HashMap<Key, Value> = HashMap::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(unexpected("field of a message", "entry of a map"));
                    };
                    let key: Key = self
                        .value(&entry.key)?
                        .try_into()
                        .map_err(ExecutionError::UnsupportedKeyType)?;
                    self.budget.bytes(2 * size_of::<(Key, Value)>() + OVERHEAD)?;
                    let value = self.value(&entry.value)?;
                    values.insert(key, value);
                }
                Ok(Value::Map(Map { map: Arc::new(values) }))
            }
            Expr::Comprehension(comprehension) => self.repeat(comprehension),
            Expr::Struct(message) => Err(unexpected(&message.type_name, "known struct")),
            Expr::Unspecified => Err(unexpected("nothing", "expression")),
        }
    }

    fn select(&mut self, select: &'a SelectExpr) -> Answer {
        let Value::Map(map) = self.value(&select.operand)? else {
            return Err(ExecutionError::NoSuchKey(Arc::new(select.field.clone())).into());
        };
        let found = map.get(&Key::from(select.field.as_str()));
        match (select.test, found) {
            (true, found) => Ok(Value::Bool(found.is_some())),
            (false, Some(value)) => Ok(value.clone()),
            (false, None) => Err(ExecutionError::NoSuchKey(Arc::new(select.field.clone())).into()),
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Answer {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::CONDITIONAL, [condition, yes, no]) => {
                if self.truth(condition)? {
                    self.value(yes)
                } else {
                    self.value(no)
                }
            }
            (operators::LOGICAL_OR, [left, right]) => self.either(left, right, true),
            (operators::LOGICAL_AND, [left, right]) => self.either(left, right, false),
            (operators::NOT_STRICTLY_FALSE, [argument]) => match self.truth(argument) {
                Ok(truth) => Ok(Value::Bool(truth)),
                Err(Stop::Error(_)) => Ok(Value::Bool(true)),
                Err(spent) => Err(spent),
            },
            (operators::ADD, [gathered, more]) if self.gathers(gathered) && matches!(more.expr, Expr::List(_)) => {
                self.gather(more)
            }
            (operators::INDEX, [from, at]) => {
                let (from, at) = (self.value(from)?, self.value(at)?);
                self.element(from, at)
            }
            (name, arguments) => {
                let mut values = Vec::with_capacity(arguments.len() + 1);
                if let Some(target) = &call.target {
                    values.push(self.value(target)?);
                }
                for argument in arguments {
                    values.push(self.value(argument)?);
                }
                if let ("matches", [Value::String(text), Value::String(pattern)]) = (name, values.as_slice()) {
                    let matches = self.kept.patterns.matches(text, pattern, self.budget)?;
                    return Ok(Value::Bool(matches));
                }
                self.function(name, call.target.is_some(), values)
            }
        }
    }

    /// `&&` and `||`: either operand may decide, even if the other is an error.
    fn either(&mut self, left: &'a IdedExpr, right: &'a IdedExpr, decides: bool) -> Answer {
        let left = match self.truth(left) {
            Ok(left) if left == decides => return Ok(Value::Bool(decides)),
            Err(spent @ Stop::Spent(_)) => return Err(spent),
            left => left,
        };
        let right = self.truth(right)?;
        match left {
            Err(_) if right == decides => Ok(Value::Bool(decides)),
            Err(error) => Err(error),
            Ok(_) => Ok(Value::Bool(right)),
        }
    }

    fn truth(&mut self, expression: &'a IdedExpr) -> Result<bool, Stop> {
        match self.value(expression)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(unexpected(&other.type_of().to_string(), "bool")),
        }
    }

    /// Whether it is the accumulator of the innermost loop. Only a loop's own step can name it.
    fn gathers(&self, expression: &IdedExpr) -> bool {
        matches!(&expression.expr, Expr::Ident(name) if name.starts_with('@'))
    }

    /// Appends to the accumulator. The list is moved out of the variable, to which the step's result is assigned, so
    /// that a list of a thousand elements is not copied a thousand times.
    fn gather(&mut self, more: &'a IdedExpr) -> Answer {
        let at = self.bound.iter().rposition(|(name, _)| name.starts_with('@'));
        let Some(Value::List(mut gathered)) = at.map(|at| mem::replace(&mut self.bound[at].1, Value::Null)) else {
            return Err(unexpected("something else", "list"));
        };
        if let Value::List(more) = self.value(more)? {
            let list = Arc::make_mut(&mut gathered);
            // Vectors double their capacity.
            self.budget.bytes(2 * more.len() * size_of::<Value>())?;
            list.extend(more.iter().cloned());
        }
        Ok(Value::List(gathered))
    }

    fn element(&mut self, from: Value, at: Value) -> Answer {
        let found = match (&from, &at) {
            (Value::List(list), Value::Int(index)) => {
                usize::try_from(*index).ok().and_then(|index| list.get(index)).cloned()
            }
            (Value::Map(map), Value::Int(_) | Value::UInt(_) | Value::Bool(_) | Value::String(_)) => {
                let key: Result<Key, Value> = at.clone().try_into();
                key.ok().and_then(|key| map.get(&key).cloned())
            }
            _ => None,
        };
        match found {
            Some(value) => Ok(value),
            // The crate reports type errors and compares numbers of different types.
            None => self.function(operators::INDEX, false, vec![from, at]),
        }
    }

    fn repeat(&mut self, loops: &'a ComprehensionExpr) -> Answer {
        let init = self.value(&loops.accu_init)?;
        let over: Vec<Value> = match self.value(&loops.iter_range)? {
            Value::List(list) => {
                self.budget.bytes(list.len() * size_of::<Value>())?;
                list.to_vec()
            }
            Value::Map(map) => {
                self.budget.bytes(map.map.len() * size_of::<Value>())?;
                map.map.keys().map(Value::from).collect()
            }
            other => return Err(unexpected(&other.type_of().to_string(), "iterable")),
        };
        let outside = self.bound.len();
        self.bound.push((&loops.accu_var, init));
        self.bound.push((&loops.iter_var, Value::Null));
        let answer = self.steps(loops, over, outside);
        self.bound.truncate(outside);
        answer
    }

    /// Iterates over the elements. In `all` and `exists` a later element may override an error.
    fn steps(&mut self, loops: &'a ComprehensionExpr, over: Vec<Value>, at: usize) -> Answer {
        let decides = decides(loops);
        let mut pending = None;
        for element in over {
            self.budget.steps(1)?;
            if !self.truth(&loops.loop_cond)? {
                break;
            }
            self.bound[at + 1].1 = element;
            match (self.value(&loops.loop_step), decides) {
                (Err(Stop::Error(error)), Some(_)) => pending = Some(error),
                (Err(stop), _) => return Err(stop),
                (Ok(value), Some(decides))
                    if pending.is_some() && !matches!(value, Value::Bool(it) if it == decides) => {}
                (Ok(value), _) => {
                    pending = None;
                    self.bound[at].1 = value;
                }
            }
        }
        match pending {
            Some(error) => Err(error.into()),
            None => self.value(&loops.result),
        }
    }

    /// Calls a function or operator of the crate, once the size of the arguments is known.
    fn function(&mut self, name: &str, member: bool, values: Vec<Value>) -> Answer {
        if values.len() > ARGUMENTS.len() {
            return Err(unexpected("more arguments", "fewer"));
        }
        let mut bytes = 0;
        for value in &values {
            bytes += self.weigh(value)?;
        }
        self.budget.has(bytes)?;
        let mut scope = self.root.new_inner_scope();
        let mut names = Vec::with_capacity(values.len());
        for (argument, value) in ARGUMENTS.iter().zip(values) {
            scope.add_variable_from_value(*argument, value);
            names.push(IdedExpr {
                id: 0,
                expr: Expr::Ident((*argument).to_owned()),
            });
        }
        let call = IdedExpr {
            id: 0,
            expr: Expr::Call(CallExpr {
                func_name: name.to_owned(),
                target: (member && !names.is_empty()).then(|| Box::new(names.remove(0))),
                args: names,
            }),
        };
        let value = Value::resolve(&call, &scope)?;
        let made = self.weigh(&value)?;
        self.budget.bytes(made)?;
        Ok(value)
    }

    /// The size of a value when written out; consumes one step per part.
    fn weigh(&mut self, value: &Value) -> Result<usize, Spent> {
        let mut bytes = size_of::<Value>();
        match value {
            Value::String(text) => {
                self.budget.steps(1 + text.len() as u64 / 64)?;
                bytes += text.len();
            }
            Value::Bytes(text) => {
                self.budget.steps(1 + text.len() as u64 / 64)?;
                bytes += text.len();
            }
            Value::List(list) => {
                self.budget.steps(1)?;
                for element in &**list {
                    bytes += self.weigh(element)?;
                }
            }
            Value::Map(map) => {
                self.budget.steps(1)?;
                for (key, value) in &*map.map {
                    if let Key::String(key) = key {
                        bytes += key.len();
                    }
                    bytes += size_of::<Key>() + OVERHEAD + self.weigh(value)?;
                }
            }
            _ => self.budget.steps(1)?,
        }
        Ok(bytes)
    }
}

/// The allocation overhead of a list or a map entry.
const OVERHEAD: usize = 32;

/// The value that decides an `all` or `exists` loop, if it is one.
fn decides(loops: &ComprehensionExpr) -> Option<bool> {
    let Expr::Call(call) = &loops.loop_step.expr else {
        return None;
    };
    match (&call.args.first()?.expr, call.func_name.as_str()) {
        (Expr::Ident(name), operators::LOGICAL_OR) if *name == loops.accu_var => Some(true),
        (Expr::Ident(name), operators::LOGICAL_AND) if *name == loops.accu_var => Some(false),
        _ => None,
    }
}

fn unexpected(got: &str, want: &str) -> Stop {
    Stop::Error(ExecutionError::UnexpectedType {
        got: got.into(),
        want: want.into(),
    })
}
