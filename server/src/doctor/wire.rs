//! Connections as a client makes them: to look at what is shown, or to trust and be let in.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use mergeyard_registry::tls::trust::Roots;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, ProtocolVersion, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::PATIENCE;

/// An answer of this kind is a few lines; a longer one is not from a registry.
const MOST: usize = 64 << 10;

/// What a handshake showed, whether or not anybody should believe it.
pub(super) struct Shown {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) version: Option<ProtocolVersion>,
    pub(super) has_http2: bool,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Whom a connection believes. Only one that believes somebody carries a secret.
pub(super) enum Belief {
    /// Anybody, to look at what is shown.
    JustLooking,
    In(Roots),
}

pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(PATIENCE, TcpStream::connect(address)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

pub(super) async fn look(
    address: SocketAddr,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<Shown> {
    let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
    let stream = secure(address, name, &Belief::JustLooking, versions, alpn).await?;
    let tls = stream.get_ref().1;
    Ok(Shown {
        chain: tls
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|der| der.clone().into_owned())
            .collect(),
        version: tls.protocol_version(),
        has_http2: tls.alpn_protocol() == Some(b"h2"),
    })
}

/// One GET on a connection of its own.
pub(super) async fn get(
    address: SocketAddr,
    name: &str,
    host: &str,
    path: &str,
    belief: &Belief,
    authorization: Option<&str>,
) -> io::Result<Answer> {
    let stream = secure(address, name, belief, rustls::ALL_VERSIONS, &[b"http/1.1"]).await?;
    let mut request = Request::get(path).header(header::HOST, host);
    if let (Some(value), Belief::In(_)) = (authorization, belief) {
        let mut value = header::HeaderValue::from_str(value).map_err(io::Error::other)?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let asked = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST).collect().await.map_err(io::Error::other)?;
        driver.abort();
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes().to_vec() })
    };
    timeout(PATIENCE, asked).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

async fn secure(
    address: SocketAddr,
    name: &str,
    belief: &Belief,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(io::Error::other)?;
    let mut config = match belief {
        Belief::In(roots) => builder.with_root_certificates(roots.store()),
        Belief::JustLooking => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(JustLooking(provider)))
        }
    }
    .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let stream = connect(address).await?;
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(PATIENCE, shaken).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// Takes any certificate, because what is wrong with it is what the doctor tells. Nothing secret is
/// ever said to who was only looked at.
#[derive(Debug)]
struct JustLooking(Arc<CryptoProvider>);

impl ServerCertVerifier for JustLooking {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// For what only wants to see whether HTTP is spoken in the clear.
pub(super) async fn speaks_plain_http(address: SocketAddr, host: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut start = [0; 5];
        stream.read_exact(&mut start).await?;
        Ok::<_, io::Error>(&start == b"HTTP/")
    };
    timeout(PATIENCE, asked).await.is_ok_and(|answer| answer.unwrap_or(false))
}
