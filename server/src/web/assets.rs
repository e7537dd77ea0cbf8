//! The style sheet, the script and the icon, inside the binary. Their addresses carry a
//! hash of their content, so a browser may keep them for ever.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::Answer;

pub(super) struct Asset {
    file: String,
    content_type: &'static str,
    content: &'static str,
}

pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style", "css", "text/css; charset=utf-8", include_str!("assets/style.css")));
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("live", "js", "text/javascript; charset=utf-8", include_str!("assets/live.js"))
});
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));

impl Asset {
    fn new(name: &str, extension: &str, content_type: &'static str, content: &'static str) -> Self {
        let hash = hex::encode(&Sha256::digest(content)[..8]);
        Self { file: format!("{name}-{hash}.{extension}"), content_type, content }
    }

    pub(super) fn path(&self) -> String {
        format!("/assets/{}", self.file)
    }
}

pub(super) async fn asset(Path(file): Path<String>) -> Result<Response, Answer> {
    let asset =
        [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.file == file).ok_or(Answer::NotFound)?;
    let headers =
        [(CONTENT_TYPE, asset.content_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
    Ok((headers, asset.content).into_response())
}
