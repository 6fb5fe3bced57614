//! Checks the types in an expression, as far as they are known before evaluation.
//!
//! Nothing is known about the type of a node's fields, as in the original, where the variable is dynamically typed. So
//! the check finds errors among literals, constants and function results. Numbers of different types are not compared.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators as op};

use crate::leader::nodes::filter::constants;

/// The type of a value, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Any,
    Bool,
    Bytes,
    Double,
    Duration,
    Int,
    List(Box<Self>),
    Map(Box<Self>),
    Null,
    String,
    Timestamp,
    Type,
    Uint,
}

use Kind::{Any, Bool, Bytes, Double, Duration, Int, List, Map, Null, Timestamp, Uint};

impl Kind {
    /// Whether a value of this type may be used where the other is expected.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Any, _) | (_, Any) | (Null, Duration | Timestamp) | (Duration | Timestamp, Null) => true,
            (List(one), List(two)) | (Map(one), Map(two)) => one.fits(two),
            (one, two) => one == two,
        }
    }

    fn is(&self, wanted: &[Self]) -> bool {
        wanted.iter().any(|wanted| self.fits(wanted))
    }
}

/// Checks an expression and returns its type.
pub(super) fn check(expression: &IdedExpr) -> Result<Kind, String> {
    Scope { bound: Vec::new() }.infer(expression)
}

/// The variables of the enclosing loops.
struct Scope {
    bound: Vec<(String, Kind)>,
}

impl Scope {
    fn infer(&mut self, expression: &IdedExpr) -> Result<Kind, String> {
        match &expression.expr {
            Expr::Literal(literal) => Ok(of_literal(literal)),
            Expr::Ident(name) => Ok(self.of_name(name)),
            Expr::Select(select) => {
                if constants::named(&expression.expr).is_some() {
                    return Ok(Int);
                }
                match (self.infer(&select.operand)?, select.test) {
                    (Any | Map(_), true) => Ok(Bool),
                    (Any, false) => Ok(Any),
                    (Map(value), false) => Ok(*value),
                    (other, _) => Err(format!("a {other:?} has no field {:?}", select.field)),
                }
            }
            Expr::Call(call) => self.of_call(call),
            Expr::List(list) => {
                let elements = list.elements.iter().map(|element| self.infer(element));
                Ok(List(Box::new(common(elements)?)))
            }
            Expr::Map(map) => {
                let mut values = Vec::new();
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.infer(&entry.key)?;
                        values.push(self.infer(&entry.value));
                    }
                }
                Ok(Map(Box::new(common(values.into_iter())?)))
            }
            Expr::Comprehension(loops) => self.of_loop(loops),
            Expr::Struct(_) | Expr::Unspecified => Ok(Any),
        }
    }

    fn of_name(&self, name: &str) -> Kind {
        let bound = self.bound.iter().rev().find(|(bound, _)| bound == name);
        match bound {
            Some((_, of)) => of.clone(),
            // Enum constants; whether the name exists is checked elsewhere.
            None if name.starts_with("NODE_STATE_") || name.starts_with("HEALTH_") => Int,
            None if crate::leader::nodes::filter::TYPES.contains(&name) => Kind::Type,
            None => Any,
        }
    }

    fn of_loop(&mut self, loops: &ComprehensionExpr) -> Result<Kind, String> {
        let element = match self.infer(&loops.iter_range)? {
            List(element) => *element,
            // A map iterates over its keys.
            Any | Map(_) => Any,
            other => return Err(format!("a {other:?} has no elements")),
        };
        let begins = match self.infer(&loops.accu_init)? {
            // The accumulator of a loop.
            List(_) => List(Box::new(Any)),
            other => other,
        };
        let outside = self.bound.len();
        self.bound.push((loops.iter_var.clone(), element));
        self.bound.extend(loops.iter_var2.clone().map(|name| (name, Any)));
        self.bound.push((loops.accu_var.clone(), begins));
        let inner = [&loops.loop_cond, &loops.loop_step, &loops.result];
        let of: Result<Vec<_>, _> = inner.into_iter().map(|inner| self.infer(inner)).collect();
        self.bound.truncate(outside);
        Ok(of?.pop().unwrap_or(Any))
    }

    fn of_call(&mut self, call: &CallExpr) -> Result<Kind, String> {
        let mut given = Vec::new();
        for argument in call.target.iter().map(|target| &**target).chain(&call.args) {
            given.push(self.infer(argument)?);
        }
        let name = call.func_name.as_str();
        let refused = || {
            let given: Vec<_> = given.iter().map(|given| format!("{given:?}")).collect();
            Err(format!("function {name} does not accept {}", given.join(" and ")))
        };
        let found = match &given[..] {
            [one] => unary(name, one, call.target.is_some()),
            [one, two] => binary(name, one, two),
            [condition, one, two] if name == op::CONDITIONAL => {
                let good = condition.fits(&Bool) && one.fits(two);
                good.then(|| if one == two { one.clone() } else { Any })
            }
            _ => None,
        };
        found.map_or_else(refused, Ok)
    }
}

fn of_literal(literal: &LiteralValue) -> Kind {
    match literal {
        LiteralValue::Boolean(_) => Bool,
        LiteralValue::Bytes(_) => Bytes,
        LiteralValue::Double(_) => Double,
        LiteralValue::Int(_) => Int,
        LiteralValue::Null => Null,
        LiteralValue::String(_) => Kind::String,
        LiteralValue::UInt(_) => Uint,
    }
}

/// The common type of the elements.
fn common(mut all: impl Iterator<Item = Result<Kind, String>>) -> Result<Kind, String> {
    let first = all.next().unwrap_or(Ok(Any))?;
    all.try_fold(first, |common, next| {
        next.map(|next| if common == next { common } else { Any })
    })
}

/// The result type of a function of one argument; `None` if the argument does not fit.
fn unary(name: &str, of: &Kind, is_member: bool) -> Option<Kind> {
    let (takes, makes): (&[Kind], Kind) = match name {
        op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE => (&[Bool], Bool),
        op::NEGATE => (&[Int, Double], of.clone()),
        "size" => return is_sized(of).then_some(Int),
        "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear" | "getFullYear" | "getMonth" => {
            (&[Timestamp], Int)
        }
        "getHours" | "getMilliseconds" | "getMinutes" | "getSeconds" => (&[Timestamp, Duration], Int),
        // The remaining functions are not methods.
        _ if is_member => return None,
        "dyn" => return Some(Any),
        "type" => return Some(Kind::Type),
        "bool" => (&[Bool, Kind::String], Bool),
        "bytes" => (&[Bytes, Kind::String], Bytes),
        "double" => (&[Double, Int, Kind::String, Uint], Double),
        "duration" => (&[Duration, Int, Kind::String], Duration),
        "int" => (&[Double, Duration, Int, Kind::String, Timestamp, Uint], Int),
        "string" => (
            &[Bool, Bytes, Double, Duration, Int, Kind::String, Timestamp, Uint],
            Kind::String,
        ),
        "timestamp" => (&[Int, Kind::String, Timestamp], Timestamp),
        "uint" => (&[Double, Int, Kind::String, Uint], Uint),
        _ => return None,
    };
    of.is(takes).then_some(makes)
}

fn is_sized(of: &Kind) -> bool {
    matches!(of, Any | Bytes | List(_) | Map(_) | Kind::String)
}

/// The result type of a function of two arguments.
fn binary(name: &str, one: &Kind, two: &Kind) -> Option<Kind> {
    let both = |kinds: &[Kind]| one.fits(two) && one.is(kinds) && two.is(kinds);
    let known = || if *one == Any { two.clone() } else { one.clone() };
    let times = |one_is: &Kind, two_is: &Kind| one.fits(one_is) && two.fits(two_is) && *one != Any && *two != Any;
    match name {
        op::LOGICAL_AND | op::LOGICAL_OR => both(&[Bool]).then_some(Bool),
        op::EQUALS | op::NOT_EQUALS => one.fits(two).then_some(Bool),
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
            both(&[Bool, Bytes, Double, Duration, Int, Kind::String, Timestamp, Uint]).then_some(Bool)
        }
        op::ADD if times(&Duration, &Timestamp) || times(&Timestamp, &Duration) => Some(Timestamp),
        op::ADD => {
            let lists = matches!((one, two), (List(_), List(_) | Any) | (Any, List(_)));
            let good = lists || both(&[Bytes, Double, Duration, Int, Kind::String, Uint]) || is_time(one, two);
            good.then(|| if lists { List(Box::new(Any)) } else { sum(one, two) })
        }
        op::SUBSTRACT if times(&Timestamp, &Timestamp) => Some(Duration),
        op::SUBSTRACT if times(&Timestamp, &Duration) => Some(Timestamp),
        op::SUBSTRACT => (both(&[Double, Duration, Int, Uint]) || is_time(one, two)).then(|| sum(one, two)),
        op::MULTIPLY | op::DIVIDE => both(&[Double, Int, Uint]).then(known),
        op::MODULO => both(&[Int, Uint]).then(known),
        op::IN => match two {
            List(element) => one.fits(element).then_some(Bool),
            Any | Map(_) => Some(Bool),
            _ => None,
        },
        op::INDEX => match (one, two) {
            (List(element), Int | Any) => Some((**element).clone()),
            (Map(value), _) => Some((**value).clone()),
            (Any, _) => Some(Any),
            _ => None,
        },
        "contains" | "startsWith" | "endsWith" | "matches" => both(&[Kind::String]).then_some(Bool),
        // With a time zone.
        "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear" | "getFullYear" | "getMonth" | "getHours"
        | "getMilliseconds" | "getMinutes" | "getSeconds" => {
            (one.fits(&Timestamp) && two.fits(&Kind::String)).then_some(Int)
        }
        _ => None,
    }
}

/// One operand is a time and the other is unknown.
fn is_time(one: &Kind, two: &Kind) -> bool {
    matches!((one, two), (Timestamp, Any) | (Any, Timestamp))
}

/// The result type of an addition: the common type, or unknown.
fn sum(one: &Kind, two: &Kind) -> Kind {
    if one == two { one.clone() } else { Any }
}
