//! From the text of an expression to its parts.

use super::value::Value;

/// Each part may hold others, and evaluating one calls itself for them: this bounds the stack.
const MOST_PARTS: usize = 256;

/// Brackets, blocks and conditions inside each other.
const DEEPEST: usize = 24;

#[derive(Debug)]
pub(super) enum Node {
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

pub(super) fn parse(source: &str) -> Result<Node, String> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, parts: 0, depth: 0 };
    let node = parser.sequence()?;
    match parser.peek() {
        None => Ok(node),
        Some(token) => Err(format!("{} is not expected there", token.shown())),
    }
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
const SIGNS: [&str; 31] = [
    "?.", "??", "||", "&&", "==", "!=", "<=", ">=", "..", "**", "<", ">", "+", "-", "*", "/", "%", "^", "!",
    "?", ":", "(", ")", "[", "]", "{", "}", ",", ";", "|", "=",
];

fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if c.is_whitespace() => c.len_utf8(),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").ok_or("a comment is not closed")? + 2,
            '"' | '\'' | '`' => text(rest, first, &mut tokens)?,
            '0'..='9' => number(rest, &mut tokens)?,
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => number(rest, &mut tokens)?,
            c if c.is_alphabetic() || matches!(c, '_' | '$') => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '$'));
                let word = &rest[..end.unwrap_or(rest.len())];
                tokens.push(Token::Word(word.to_owned()));
                word.len()
            }
            '#' => {
                tokens.push(Token::Word("#".to_owned()));
                1
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
        };
        rest = &rest[length..];
    }
    Ok(tokens)
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
                    '\\' | '"' | '\'' | '/' => escaped,
                    'u' => {
                        let hex: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                        let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                        code.ok_or_else(|| format!("`\\u{hex}` is not a character"))?
                    }
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

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    parts: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
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
        self.parts += 1;
        if self.depth > DEEPEST || self.parts > MOST_PARTS {
            return Err("the expression has too many parts; make it simpler".to_owned());
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
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
            while let Some((negated, operator, strength)) = parser.operator(least) {
                parser.parts += 1;
                if parser.parts > MOST_PARTS {
                    return Err("the expression has too many parts; make it simpler".to_owned());
                }
                let right =
                    parser.expression(if operator == Binary::Power { strength } else { strength + 1 })?;
                left = Node::Binary(operator, left.into(), right.into());
                if negated {
                    left = Node::Not(left.into());
                }
            }
            if least > 0 {
                return Ok(left);
            }
            parser.tail(left)
        })
    }

    /// `| function()` and `? :`, which hold weaker than any operator.
    fn tail(&mut self, mut left: Node) -> Result<Node, String> {
        while self.takes("|") {
            self.parts += 1;
            let name = self.word()?;
            left = self.call(name, vec![left])?;
            left = self.members(left)?;
        }
        if !self.takes("?") {
            return Ok(left);
        }
        let then = self.expression(0)?;
        self.expect(":")?;
        Ok(Node::If(left.into(), then.into(), self.expression(0)?.into()))
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
        if self.takes("!") || self.takes("not") {
            return Ok(Node::Not(self.expression(NOT)?.into()));
        }
        if self.takes("-") {
            return Ok(Node::Negate(self.expression(SIGN)?.into()));
        }
        if self.takes("+") {
            return self.expression(SIGN);
        }
        let node = self.primary()?;
        self.members(node)
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
            block = arguments.pop().map(Box::new);
        }
        Ok(Node::Call(name, arguments, block))
    }

    fn members(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
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
            self.parts += 1;
            if self.parts > MOST_PARTS {
                return Err("the expression has too many parts; make it simpler".to_owned());
            }
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
