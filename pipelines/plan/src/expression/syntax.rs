//! From the text of an expression to its parts.

use super::{Fault, value::Value};

/// Each part may hold others, and evaluating one calls itself for them: this bounds the stack.
const MOST_PARTS: usize = 256;

/// Brackets, blocks and conditions inside each other.
const DEEPEST: usize = 24;

const TOO_MANY: &str = "the expression has too many parts; make it simpler";

#[derive(Debug)]
pub(super) enum Node {
    /// A part that errors may be about, with the characters before it.
    At(usize, Box<Node>),
    Literal(Value),
    Name(String),
    Let(String, Box<Node>, Box<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Binary, Box<Node>, Box<Node>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    Index(Box<Node>, Box<Node>),
    Slice(Box<Node>, Option<Box<Node>>, Option<Box<Node>>),
    /// The block, for functions that ask something about each element.
    Call(String, Vec<Node>, Option<Box<Node>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    Range,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
    OrElse,
}

/// How strongly the operators hold their sides, from expr-lang's table.
const NOT: u32 = 50;
const SIGN: u32 = 90;
const OPERATORS: [(&str, Binary, u32); 24] = [
    ("||", Binary::Or, 10),
    ("or", Binary::Or, 10),
    ("&&", Binary::And, 15),
    ("and", Binary::And, 15),
    ("==", Binary::Equal, 20),
    ("!=", Binary::Unequal, 20),
    ("<", Binary::Less, 20),
    ("<=", Binary::LessOrEqual, 20),
    (">", Binary::Greater, 20),
    (">=", Binary::GreaterOrEqual, 20),
    ("in", Binary::In, 20),
    ("contains", Binary::Contains, 20),
    ("startsWith", Binary::StartsWith, 20),
    ("endsWith", Binary::EndsWith, 20),
    ("matches", Binary::Matches, 20),
    ("..", Binary::Range, 25),
    ("+", Binary::Add, 30),
    ("-", Binary::Subtract, 30),
    ("*", Binary::Multiply, 60),
    ("/", Binary::Divide, 60),
    ("%", Binary::Remainder, 60),
    ("**", Binary::Power, 100),
    ("^", Binary::Power, 100),
    ("??", Binary::OrElse, 500),
];

pub(super) fn parse(source: &str) -> Result<Node, Fault> {
    let (tokens, places) = tokens(source)?;
    let mut parser = Parser { tokens, places, at: 0, looked_at: 0, parts: 0, depth: 0 };
    let node = parser.sequence().and_then(|node| match parser.peek() {
        None => Ok(node),
        Some(token) => {
            let shown = token.shown();
            parser.looked_at = parser.at;
            Err(format!("{shown} is not expected there"))
        }
    });
    node.map_err(|message| Fault { at: parser.place(parser.looked_at), message })
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(Value),
    Text(String),
    Word(String),
    Sign(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Token::Number(_) => "a number".to_owned(),
            Token::Text(text) => format!("the text `{text}`"),
            Token::Word(word) => format!("`{word}`"),
            Token::Sign(sign) => format!("`{sign}`"),
        }
    }
}

/// Longer ones first, because `<` begins `<=`.
const SIGNS: [&str; 32] = [
    "?.", "??", "::", "||", "&&", "==", "!=", "<=", ">=", "..", "**", "<", ">", "+", "-", "*", "/", "%", "^",
    "!", "?", ":", "(", ")", "[", "]", "{", "}", ",", ";", "|", "=",
];

/// The tokens, and the characters before each of them and before the end.
fn tokens(source: &str) -> Result<(Vec<Token>, Vec<usize>), Fault> {
    let mut tokens = Vec::new();
    let mut places = Vec::new();
    let (mut rest, mut at) = (source, 0);
    while let Some(first) = rest.chars().next() {
        let before = tokens.len();
        let length = token(rest, first, &mut tokens).map_err(|message| Fault { at, message })?;
        places.extend(std::iter::repeat_n(at, tokens.len() - before));
        at += rest[..length].chars().count();
        rest = &rest[length..];
    }
    places.push(at);
    Ok((tokens, places))
}

/// The next token or what stands between tokens; its length.
fn token(rest: &str, first: char, tokens: &mut Vec<Token>) -> Result<usize, String> {
    Ok(match first {
        c if c.is_whitespace() => c.len_utf8(),
        '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
        '/' if rest.starts_with("/*") => rest.find("*/").ok_or("a comment is not closed")? + 2,
        '"' | '\'' | '`' => text(rest, first, tokens)?,
        '0'..='9' => number(rest, tokens)?,
        '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => number(rest, tokens)?,
        c if c.is_alphabetic() || matches!(c, '_' | '$' | '#') => {
            let is_end = |c: char| !c.is_alphanumeric() && !matches!(c, '_' | '$');
            let length = first.len_utf8();
            let end = rest[length..].find(is_end).map_or(rest.len(), |end| length + end);
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        }
        '.' if !rest.starts_with("..") => {
            tokens.push(Token::Sign("."));
            1
        }
        other => {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| format!("`{other}` is no part of an expression"))?;
            tokens.push(Token::Sign(sign));
            sign.len()
        }
    })
}

fn number(rest: &str, tokens: &mut Vec<Token>) -> Result<usize, String> {
    let mut end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let fraction = rest[end..].starts_with('.') && !rest[end..].starts_with("..");
    if fraction {
        let after = &rest[end + 1..];
        end += 1 + after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
    }
    let digits: String = rest[..end].chars().filter(|c| *c != '_').collect();
    let (body, radix) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0o" | "0O") => (&digits[2..], 8),
        Some("0b" | "0B") => (&digits[2..], 2),
        _ => (&*digits, 10),
    };
    let wrong = || format!("`{}` is not a number", &rest[..end]);
    let value = match i64::from_str_radix(body, radix) {
        Ok(whole) => Value::Integer(whole),
        Err(_) if radix == 10 => {
            let number: f64 = body.parse().map_err(|_| wrong())?;
            Value::Float(Some(number).filter(|number| number.is_finite()).ok_or_else(wrong)?)
        }
        Err(_) => return Err(wrong()),
    };
    tokens.push(Token::Number(value));
    Ok(end)
}

fn text(rest: &str, quote: char, tokens: &mut Vec<Token>) -> Result<usize, String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                tokens.push(Token::Text(text));
                return Ok(at + 1);
            }
            '\\' if quote != '`' => {
                let (_, escaped) = chars.next().ok_or("a text ends with a backslash")?;
                text.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'v' => '\x0b',
                    '\\' | '"' | '\'' | '/' => escaped,
                    'x' => code(escaped, 2, &mut chars)?,
                    'u' => code(escaped, 4, &mut chars)?,
                    'U' => code(escaped, 8, &mut chars)?,
                    other => {
                        return Err(format!("`\\{other}` is not an escape; write `\\\\` for a backslash"));
                    }
                });
            }
            c => text.push(c),
        }
    }
    Err(format!("a text is not closed by {quote}"))
}

/// The character that an escape names by its number.
fn code(
    escape: char,
    digits: usize,
    chars: &mut impl Iterator<Item = (usize, char)>,
) -> Result<char, String> {
    let hex: String = chars.take(digits).map(|(_, c)| c).collect();
    let whole = hex.len() == digits && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    let code = u32::from_str_radix(&hex, 16).ok().filter(|_| whole).and_then(char::from_u32);
    code.ok_or_else(|| format!("`\\{escape}{hex}` is not a character"))
}

struct Parser {
    tokens: Vec<Token>,
    /// Of each token, and of the end.
    places: Vec<usize>,
    at: usize,
    /// The token that an error is about.
    looked_at: usize,
    parts: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn place(&self, token: usize) -> usize {
        self.places.get(token).or(self.places.last()).copied().unwrap_or_default()
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.looked_at = self.at;
        self.at += 1;
        token
    }

    fn takes(&mut self, sign: &str) -> bool {
        let there = match self.peek() {
            Some(Token::Sign(found)) => *found == sign,
            Some(Token::Word(found)) => found == sign,
            _ => false,
        };
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) {
            return Ok(());
        }
        self.looked_at = self.at;
        let found = self.peek().map_or_else(|| "the end".to_owned(), Token::shown);
        Err(format!("`{sign}` is expected where {found} stands"))
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(format!(
                "a name is expected where {} stands",
                other.map_or("the end".into(), |t| t.shown())
            )),
        }
    }

    /// Everything that recurses comes through here.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        self.part()?;
        if self.depth > DEEPEST {
            return Err(TOO_MANY.to_owned());
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn part(&mut self) -> Result<(), String> {
        self.parts += 1;
        self.looked_at = self.at;
        if self.parts > MOST_PARTS { Err(TOO_MANY.to_owned()) } else { Ok(()) }
    }

    /// `let name = value; …`, or one expression.
    fn sequence(&mut self) -> Result<Node, String> {
        if !self.takes("let") {
            return self.expression(0);
        }
        self.deeper(|parser| {
            let name = parser.word()?;
            parser.expect("=")?;
            let value = parser.expression(0)?;
            parser.expect(";")?;
            Ok(Node::Let(name, value.into(), parser.sequence()?.into()))
        })
    }

    fn expression(&mut self, least: u32) -> Result<Node, String> {
        self.deeper(|parser| {
            let mut left = parser.operand()?;
            loop {
                let place = parser.place(parser.at);
                if least == 0 && parser.takes("|") {
                    left = parser.piped(left)?;
                    continue;
                }
                let Some((negated, operator, strength)) = parser.operator(least) else { break };
                parser.part()?;
                let right =
                    parser.expression(if operator == Binary::Power { strength } else { strength + 1 })?;
                left = Node::At(place, Node::Binary(operator, left.into(), right.into()).into());
                if negated {
                    left = Node::Not(left.into());
                }
            }
            if least == 0 { parser.choice(left) } else { Ok(left) }
        })
    }

    /// `| function()`: what stands before it is the first argument, and operators may follow.
    fn piped(&mut self, left: Node) -> Result<Node, String> {
        self.part()?;
        let place = self.place(self.at);
        let name = self.word()?;
        let call = self.call(name, vec![left])?;
        self.members(Node::At(place, call.into()))
    }

    /// `? :`, which holds weaker than any operator. `a ?: b` is `a` where that is true.
    fn choice(&mut self, condition: Node) -> Result<Node, String> {
        let place = self.place(self.at);
        if !self.takes("?") {
            return Ok(condition);
        }
        let then = if self.takes(":") {
            Node::Literal(Value::Bool(true))
        } else {
            let then = self.expression(0)?;
            self.expect(":")?;
            then
        };
        let choice = Node::If(condition.into(), then.into(), self.expression(0)?.into());
        Ok(Node::At(place, choice.into()))
    }

    /// The next operator if it holds at least that strongly; `not` may stand before those that are words.
    fn operator(&mut self, least: u32) -> Option<(bool, Binary, u32)> {
        let negated = matches!(self.peek(), Some(Token::Word(word)) if word == "not");
        let name = match self.tokens.get(self.at + usize::from(negated))? {
            Token::Sign(sign) => sign,
            Token::Word(word) => word.as_str(),
            Token::Number(_) | Token::Text(_) => return None,
        };
        let (_, operator, strength) = OPERATORS.iter().find(|(text, ..)| *text == name)?;
        let negatable = matches!(
            operator,
            Binary::In | Binary::Contains | Binary::StartsWith | Binary::EndsWith | Binary::Matches
        );
        if *strength < least || (negated && !negatable) {
            return None;
        }
        self.at += 1 + usize::from(negated);
        Some((negated, *operator, *strength))
    }

    fn operand(&mut self) -> Result<Node, String> {
        let place = self.place(self.at);
        if self.takes("!") || self.takes("not") {
            return Ok(Node::At(place, Node::Not(self.expression(NOT)?.into()).into()));
        }
        if self.takes("-") {
            return Ok(Node::At(place, Node::Negate(self.expression(SIGN)?.into()).into()));
        }
        if self.takes("+") {
            return self.expression(SIGN);
        }
        let node = self.primary()?;
        self.members(Node::At(place, node.into()))
    }

    fn primary(&mut self) -> Result<Node, String> {
        match self.next() {
            Some(Token::Number(value)) => Ok(Node::Literal(value)),
            Some(Token::Text(text)) => Ok(Node::Literal(Value::Text(text.into()))),
            Some(Token::Word(word)) => match word.as_str() {
                "true" | "false" => Ok(Node::Literal(Value::Bool(word == "true"))),
                "nil" => Ok(Node::Literal(Value::Nil)),
                "if" => self.condition(),
                _ if matches!(self.peek(), Some(Token::Sign("("))) => self.call(word, Vec::new()),
                _ => Ok(Node::Name(word)),
            },
            // `::` says that a function is meant and no variable of its name, which nobody can set here.
            Some(Token::Sign("::")) => {
                let name = self.word()?;
                self.call(name, Vec::new())
            }
            Some(Token::Sign("(")) => {
                let inner = self.sequence()?;
                self.expect(")")?;
                Ok(inner)
            }
            Some(Token::Sign("[")) => Ok(Node::List(self.listed("]", |parser| parser.expression(0))?)),
            Some(Token::Sign("{")) => Ok(Node::Map(self.listed("}", Self::entry)?)),
            // `.name` in a block is a member of the element.
            Some(Token::Sign(".")) => {
                let name = Node::Literal(Value::Text(self.word()?.into()));
                Ok(Node::Index(Node::Name("#".to_owned()).into(), name.into()))
            }
            Some(other) => Err(format!("{} is not expected there", other.shown())),
            None => Err("the expression ends too early".to_owned()),
        }
    }

    fn condition(&mut self) -> Result<Node, String> {
        let condition = self.expression(0)?;
        let then = self.block()?;
        self.expect("else")?;
        let otherwise = if self.takes("if") { self.deeper(Self::condition)? } else { self.block()? };
        Ok(Node::If(condition.into(), then.into(), otherwise.into()))
    }

    fn block(&mut self) -> Result<Node, String> {
        self.expect("{")?;
        let inner = self.sequence()?;
        self.expect("}")?;
        Ok(inner)
    }

    fn entry(&mut self) -> Result<(String, Node), String> {
        let key = match self.next() {
            Some(Token::Word(key) | Token::Text(key)) => key,
            _ => return Err("a map's key is a name or a text".to_owned()),
        };
        self.expect(":")?;
        Ok((key, self.expression(0)?))
    }

    /// Until the closing sign, with commas between them and perhaps behind the last.
    fn listed<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        while !self.takes(close) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.takes(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn call(&mut self, name: String, mut arguments: Vec<Node>) -> Result<Node, String> {
        self.expect("(")?;
        let asks = super::functions::asks_about_each(&name);
        let mut block = None;
        let rest = self.listed(")", |parser| {
            if asks && matches!(parser.peek(), Some(Token::Sign("{"))) {
                block = Some(Box::new(parser.block()?));
                return Ok(None);
            }
            // `.name` or `# > 1` in the place of a block.
            parser.expression(0).map(Some)
        })?;
        arguments.extend(rest.into_iter().flatten());
        if asks && block.is_none() && arguments.len() > 1 {
            block = Some(Box::new(arguments.remove(1)));
        }
        Ok(Node::Call(name, arguments, block))
    }

    fn members(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            let place = self.place(self.at);
            if self.takes(".") || self.takes("?.") {
                if self.takes("[") {
                    node = self.bracket(node)?;
                } else {
                    let name = Node::Literal(Value::Text(self.word()?.into()));
                    node = Node::Index(node.into(), name.into());
                }
            } else if self.takes("[") {
                node = self.bracket(node)?;
            } else {
                return Ok(node);
            }
            node = Node::At(place, node.into());
            self.part()?;
        }
    }

    fn bracket(&mut self, of: Node) -> Result<Node, String> {
        let from =
            if matches!(self.peek(), Some(Token::Sign(":"))) { None } else { Some(self.expression(0)?) };
        if self.takes("]") {
            let index = from.ok_or("an element is asked for without saying which")?;
            return Ok(Node::Index(of.into(), index.into()));
        }
        self.expect(":")?;
        let to = if matches!(self.peek(), Some(Token::Sign("]"))) { None } else { Some(self.expression(0)?) };
        self.expect("]")?;
        Ok(Node::Slice(of.into(), from.map(Into::into), to.map(Into::into)))
    }
}
