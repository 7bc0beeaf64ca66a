//! Reads JSON text strictly: what parsers disagree about is refused, because two readers of one document must not
//! see two documents.
//!
//! Refused are duplicate keys, NUL and lone surrogates in text, numbers that nothing can hold, and deep nesting.
//! A parser of our own, because the common one neither sees duplicate keys nor tells these cases apart.

use serde_json::{Map, Number, Value};

use crate::{Fault, Faults, Reason};

/// Levels of arrays and objects that a document may have.
pub const DEPTH_MAX: usize = 64;

/// Reads one JSON document.
pub fn parse(bytes: &[u8]) -> Result<Value, Faults> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let parser = Parser { text: "", bytes, at: error.valid_up_to() };
            return Err(Faults(vec![parser.fault(Reason::InvalidText, "text must be UTF-8")]));
        }
    };
    let mut parser = Parser { text, bytes, at: 0 };
    let value = parser.document().map_err(|fault| Faults(vec![fault]))?;
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn document(&mut self) -> Result<Value, Fault> {
        self.blank();
        let value = self.value(0)?;
        self.blank();
        if self.at < self.bytes.len() {
            return Err(self.fault(Reason::MalformedJson, "nothing may follow the document"));
        }
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        match self.peek() {
            Some(b'{' | b'[') if depth == DEPTH_MAX => {
                Err(self.fault(Reason::JsonTooDeep, &format!("at most {DEPTH_MAX} levels are allowed")))
            }
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
            None => Err(self.fault(Reason::MalformedJson, "the document ends too early")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut object = Map::new();
        self.at += 1;
        self.blank();
        if self.eat(b'}') {
            return Ok(Value::Object(object));
        }
        loop {
            self.blank();
            if self.peek() != Some(b'"') {
                return Err(self.fault(Reason::MalformedJson, "a key in double quotes must stand here"));
            }
            let key_at = self.at;
            let key = self.string()?;
            if object.contains_key(&key) {
                self.at = key_at;
                return Err(self.fault(Reason::DuplicateKey, "the object has this key already"));
            }
            self.blank();
            if !self.eat(b':') {
                return Err(self.fault(Reason::MalformedJson, "a colon must stand here"));
            }
            self.blank();
            let value = self.value(depth + 1)?;
            object.insert(key, value);
            self.blank();
            if self.eat(b'}') {
                return Ok(Value::Object(object));
            }
            if !self.eat(b',') {
                return Err(self.fault(Reason::MalformedJson, "a comma or a closing brace must stand here"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut array = Vec::new();
        self.at += 1;
        self.blank();
        if self.eat(b']') {
            return Ok(Value::Array(array));
        }
        loop {
            self.blank();
            array.push(self.value(depth + 1)?);
            self.blank();
            if self.eat(b']') {
                return Ok(Value::Array(array));
            }
            if !self.eat(b',') {
                return Err(self.fault(Reason::MalformedJson, "a comma or a closing bracket must stand here"));
            }
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        self.at += 1;
        let mut string = String::new();
        let mut plain_from = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    string.push_str(self.slice(plain_from));
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    string.push_str(self.slice(plain_from));
                    string.push(self.escape()?);
                    plain_from = self.at;
                }
                Some(0) => return Err(self.fault(Reason::InvalidText, "text must not contain NUL")),
                Some(0x01..=0x1f) => {
                    return Err(
                        self.fault(Reason::MalformedJson, "control characters in text must be escaped")
                    );
                }
                Some(_) => self.at += 1,
                None => return Err(self.fault(Reason::MalformedJson, "the document ends inside a text")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let escaped = self.bytes.get(self.at + 1).copied();
        self.at += 2;
        let character = match escaped {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => {
                self.at -= 2;
                return Err(self.fault(Reason::MalformedJson, "this escape is unknown"));
            }
        };
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, Fault> {
        let first = self.hex()?;
        let code = match first {
            0xd800..=0xdbff if self.bytes.get(self.at..self.at + 2) == Some(b"\\u") => {
                self.at += 2;
                match self.hex()? {
                    second @ 0xdc00..=0xdfff => 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => first,
                }
            }
            code => code,
        };
        match char::from_u32(code) {
            Some('\0') => Err(self.fault(Reason::InvalidText, "text must not contain NUL")),
            Some(character) => Ok(character),
            None => Err(self.fault(Reason::InvalidText, "text must not contain half of a surrogate pair")),
        }
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            return Err(self.fault(Reason::MalformedJson, "four hexadecimal digits must stand here"));
        };
        self.at += 4;
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let from = self.at;
        let negative = self.eat(b'-');
        let zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 && matches!(self.peek(), Some(b'I' | b'N')) {
            return Err(self.fault(Reason::InvalidNumber, "a number must be finite"));
        }
        let mut whole = true;
        let mut well_formed = digits > 0 && !(zero && digits > 1);
        if self.eat(b'.') {
            whole = false;
            well_formed &= self.digits() > 0;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            well_formed &= self.digits() > 0;
        }
        if !well_formed {
            return Err(self.fault(Reason::MalformedJson, "this number is not JSON"));
        }
        let literal = self.slice(from);
        let number = match whole {
            true if negative => literal.parse::<i64>().ok().map(Number::from),
            true => literal.parse::<u64>().ok().map(Number::from),
            false => literal.parse::<f64>().ok().and_then(Number::from_f64),
        };
        number.map(Value::Number).ok_or_else(|| {
            self.at = from;
            self.fault(Reason::InvalidNumber, "this number is out of range; write it as text")
        })
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        if rest.starts_with(b"NaN") || rest.starts_with(b"Infinity") {
            return Err(self.fault(Reason::InvalidNumber, "a number must be finite"));
        }
        Err(self.fault(Reason::MalformedJson, "a value must stand here"))
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - from
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn slice(&self, from: usize) -> &'a str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    fn fault(&self, reason: Reason, message: &str) -> Fault {
        let before = self.bytes.get(..self.at.min(self.bytes.len())).unwrap_or_default();
        let line = before.split(|byte| *byte == b'\n').count();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        let position = format!("line {line}, column {column}");
        let mut values = vec![("position", position.clone())];
        if reason == Reason::JsonTooDeep {
            values.push(("depth_max", DEPTH_MAX.to_string()));
        }
        Fault { path: String::new(), reason, message: format!("{message} at {position}"), values }
    }
}
