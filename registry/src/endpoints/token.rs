//! Where clients fetch tokens: `GET` as engines do, by distribution's token specification, and
//! `POST` by its OAuth2 form.
//!
//! `service` and `client_id` decide nothing: the key is this registry's alone, so there is no other
//! service a token could be for. Refresh tokens are not given, because one would be a second secret
//! of an account that has a secret already.

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use mergeyard_types::{Secret, Timestamp};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::{
    Registry,
    access::{Denied, Issued, LIFETIME, Login, Scopes},
    error::Error,
};

/// A name, a secret and the most scopes that are taken, percent-encoded.
const FORM_BYTES: usize = 16 << 10;

pub(super) async fn answer(State(registry): State<Registry>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = match parts.method {
        Method::GET => by_query(&registry, &parts),
        Method::POST => by_form(&registry, &parts, body).await,
        _ => Err(Error::Method(parts.method.clone())),
    };
    let mut response = answer.unwrap_or_else(|error| {
        error.log(&parts.method, parts.uri.path());
        error.into_response()
    });
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn by_query(registry: &Registry, parts: &Parts) -> Result<Response, Error> {
    let now = Timestamp::now();
    let identity = registry.access.login(parts, now)?;
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let scopes: Vec<_> = form_urlencoded::parse(query).filter(|(key, _)| key == "scope").collect();
    let asked = Scopes::parse(scopes.iter().map(|(_, scope)| scope.as_ref()))?;
    Ok(Json(told(registry.access.issue(&identity, &asked, now)?)).into_response())
}

async fn by_form(registry: &Registry, parts: &Parts, body: Body) -> Result<Response, Error> {
    let now = Timestamp::now();
    let form = match Form::read(parts, body).await {
        Ok(form) => form,
        Err(refused) => return Ok(refused.into_response()),
    };
    let identity = match registry.access.login_as(form.login, parts, now) {
        Ok(identity) => identity,
        Err(denied @ Denied::TooMany { .. }) => return Err(Error::Denied(denied)),
        Err(denied) => return Ok(Refused::new("invalid_grant", denied).into_response()),
    };
    let issued = registry.access.issue(&identity, &form.scopes, now)?;
    let scope = issued.scopes.to_string();
    let mut told = told(issued);
    told["scope"] = scope.into();
    told["token_type"] = "Bearer".into();
    Ok(Json(told).into_response())
}

fn told(issued: Issued) -> Value {
    let token = issued.token.expose();
    let at = jiff::Timestamp::from_second(issued.at.0 / 1000).unwrap_or_default();
    json!({"token": token, "access_token": token, "expires_in": LIFETIME.as_secs(), "issued_at": at.to_string()})
}

struct Form {
    login: Login,
    scopes: Scopes,
}

impl Form {
    async fn read(parts: &Parts, body: Body) -> Result<Self, Refused> {
        let invalid = |why: &str| Refused::new("invalid_request", why);
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
        if !essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(invalid("the body must be application/x-www-form-urlencoded"));
        }
        let body =
            to_bytes(body, FORM_BYTES).await.map_err(|_| invalid("the body is too long, or was cut"))?;
        let value = |wanted: &str| {
            let mut values = form_urlencoded::parse(&body).filter(|(key, _)| key == wanted);
            match (values.next(), values.next()) {
                (Some(_), Some(_)) => Err(invalid("no parameter may be there twice")),
                (value, _) => Ok(value.map(|(_, value)| value.into_owned())),
            }
        };
        match value("grant_type")?.as_deref() {
            Some("password") => {}
            Some(_) => {
                return Err(Refused::new("unsupported_grant_type", "the only grant type is `password`"));
            }
            None => return Err(invalid("grant_type is missing: it must be `password`")),
        }
        let (Some(name), Some(secret)) = (value("username")?, value("password")?) else {
            return Err(invalid("username and password are needed"));
        };
        let asked = value("scope")?.unwrap_or_default();
        let scopes = Scopes::parse([asked.as_str()]).map_err(|error| Refused::new("invalid_scope", error))?;
        Ok(Self { login: Login { name, secret: Secret::new(secret) }, scopes })
    }
}

/// A refusal in OAuth2's form (RFC 6749, section 5.2).
struct Refused {
    error: &'static str,
    description: String,
}

impl Refused {
    fn new(error: &'static str, description: impl ToString) -> Self {
        Self { error, description: description.to_string() }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = json!({"error": self.error, "error_description": self.description});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}
