//! Scopes: what a token is asked for, and what it is good for.
//!
//! The grammar is the one of distribution's token specification, `type:name:action,action`, in
//! lists with a space between. What it allows and this registry does not have (another type, an
//! action of somebody else's, a name with a host in front) is no error and grants nothing; what
//! it does not allow is refused.

use std::fmt;

use http::{Method, Uri};
use mergeyard_types::ImageName;
use url::form_urlencoded;

use super::{
    account::{Identity, Right},
    right_for,
};
use crate::route::Route;

/// Protects memory, and keeps a token shorter than what a request's head may hold: a repository's
/// name is bounded too. A client that mounts from many repositories in one push asks for about a dozen.
const SCOPES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Repository {
        name: ImageName,
        rights: Vec<Right>,
    },
    /// The list of repositories, `registry:catalog:*`.
    Catalog,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Scopes(Vec<Scope>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("a scope must read `repository:<name>:<action>,<action>`, such as `repository:acme/clock:pull`")]
    Malformed,
    #[error("more than {SCOPES} scopes: ask for a token for fewer")]
    TooMany,
}

impl Scopes {
    pub(crate) fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, ScopeError> {
        let mut scopes = Vec::new();
        let texts = lists.into_iter().flat_map(|list| list.split(' ')).filter(|text| !text.is_empty());
        for (at, text) in texts.enumerate() {
            if at == SCOPES {
                return Err(ScopeError::TooMany);
            }
            scopes.extend(Scope::parse(text)?);
        }
        Ok(Self(scopes))
    }

    /// What a client has to ask for before it sends this request again.
    pub(crate) fn wanted(method: &Method, route: &Route, uri: &Uri) -> Self {
        let Some(name) = route.name() else {
            return Self(if *route == Route::Catalog { vec![Scope::Catalog] } else { Vec::new() });
        };
        let rights = match right_for(method, route) {
            // Every pusher looks first at what is there already.
            Right::Push => vec![Right::Pull, Right::Push],
            right => vec![right],
        };
        let target = Scope::Repository { name: name.clone(), rights };
        let source = mount_source(method, route, uri);
        let source = source.map(|name| Scope::Repository { name, rights: vec![Right::Pull] });
        Self([target].into_iter().chain(source).collect())
    }

    /// As much of these as the account may.
    pub(super) fn granted_to(&self, identity: &Identity) -> Self {
        let granted = |scope: &Scope| match scope {
            Scope::Catalog => Some(Scope::Catalog),
            Scope::Repository { name, rights } => {
                let rights: Vec<_> = rights.iter().copied().filter(|r| identity.holds(*r, name)).collect();
                (!rights.is_empty()).then(|| Scope::Repository { name: name.clone(), rights })
            }
        };
        Self(self.0.iter().filter_map(granted).collect())
    }

    pub(super) fn allow(&self, right: Right, wanted: &ImageName) -> bool {
        self.0.iter().any(|scope| match scope {
            Scope::Repository { name, rights } => name == wanted && rights.contains(&right),
            Scope::Catalog => false,
        })
    }

    pub(super) fn allow_catalog(&self) -> bool {
        self.0.contains(&Scope::Catalog)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Scope {
    fn parse(text: &str) -> Result<Option<Self>, ScopeError> {
        // A host in front of a name may have a port: the type ends at the first `:`, the name at the last.
        let (kind, rest) = text.split_once(':').ok_or(ScopeError::Malformed)?;
        let (name, actions) = rest.rsplit_once(':').ok_or(ScopeError::Malformed)?;
        // A type may carry a class, as in `repository(plugin)`.
        let in_kind = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"()".contains(&b);
        let in_name = |b: u8| b.is_ascii_alphanumeric() || b"/._-:[]".contains(&b);
        let in_actions = |b: u8| b.is_ascii_lowercase() || b"*,".contains(&b);
        if name.is_empty()
            || !kind.bytes().all(in_kind)
            || !name.bytes().all(in_name)
            || !actions.bytes().all(in_actions)
        {
            return Err(ScopeError::Malformed);
        }
        Ok(match (kind, name, name.parse()) {
            ("repository", _, Ok(name)) => Some(Self::Repository { name, rights: rights(actions) }),
            ("registry", "catalog", _) if actions.split(',').any(|action| action == "*") => {
                Some(Self::Catalog)
            }
            _ => None,
        })
    }
}

/// `*` is what some clients ask for before they delete: everything.
fn rights(actions: &str) -> Vec<Right> {
    let asked = |action: &str, right: &Right| action == "*" || action == right.to_string();
    Right::ALL.into_iter().filter(|right| actions.split(',').any(|action| asked(action, right))).collect()
}

/// The repository that a blob is to be mounted from.
pub(super) fn mount_source(method: &Method, route: &Route, uri: &Uri) -> Option<ImageName> {
    if *method != Method::POST || !matches!(route, Route::Uploads { .. }) {
        return None;
    }
    let query = || form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let value = |key: &str| query().find(|(name, _)| name == key).map(|(_, value)| value);
    value("mount")?;
    value("from")?.parse().ok()
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " " })?;
            match scope {
                Scope::Catalog => f.write_str("registry:catalog:*")?,
                Scope::Repository { name, rights } => {
                    let rights: Vec<_> = rights.iter().map(Right::to_string).collect();
                    write!(f, "repository:{name}:{}", rights.join(","))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, ScopeError> {
        Scopes::parse([text]).map(|scopes| scopes.to_string())
    }

    #[test]
    fn what_this_registry_does_not_have_grants_nothing_and_is_no_error() {
        for (text, understood) in [
            ("", ""),
            ("  ", ""),
            ("repository:acme/clock:pull,push", "repository:acme/clock:pull,push"),
            ("repository:a:push,pull,pull", "repository:a:pull,push"),
            ("repository:a:*", "repository:a:pull,push,delete"),
            ("repository:a:pull  registry:catalog:*", "repository:a:pull registry:catalog:*"),
            ("repository:a:frobnicate,pull", "repository:a:pull"),
            ("repository:a:", "repository:a:"),
            ("repository(plugin):a:pull", ""),
            ("repository:registry.example.org:5000/a:pull", ""),
            ("repository:Acme:pull", ""),
            ("repository:../../etc/passwd:pull", ""),
            ("repository:acme/../other:*", ""),
            ("registry:catalog:pull", ""),
            ("registry:other:*", ""),
            ("elsewhere:a:pull", ""),
        ] {
            assert_eq!(read(text).as_deref(), Ok(understood), "{text}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_allow_or_is_too_much_is_refused() {
        for text in [
            "a",
            "repository:a",
            "repository::pull",
            "Repository:a:pull",
            "repository:a:PULL",
            "a:é:b",
            "repository:%2e%2e/x:pull",
            "repository:a\0:pull",
            "repository:a\":pull",
        ] {
            assert_eq!(read(text), Err(ScopeError::Malformed), "{text}");
        }
        let one = "repository:a:pull";
        assert!(Scopes::parse(vec![one; SCOPES]).is_ok());
        assert_eq!(Scopes::parse(vec![one; SCOPES + 1]), Err(ScopeError::TooMany));
    }

    proptest! {
        #[test]
        fn no_scope_makes_it_panic_and_what_is_understood_reads_back(
            text in "((repository|registry|x)?:?(\\PC{0,4}|catalog|[a-z/]{1,5}):?(pull|push|delete|\\*|,){0,4} ?){0,5}"
        ) {
            if let Ok(scopes) = Scopes::parse([text.as_str()]) {
                prop_assert_eq!(Scopes::parse([scopes.to_string().as_str()]), Ok(scopes));
            }
        }
    }
}
