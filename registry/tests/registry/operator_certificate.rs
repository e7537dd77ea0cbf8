//! A certificate of the operator's own: said at the start what is wrong with it, and taken up when
//! whatever renews it has replaced it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mergeyard_registry::{
    Certificates, serve,
    tls::{certificate::certificates, trust::Roots},
};
use mergeyard_types::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;

use crate::yard::Yard;

const HOST: &str = "registry.example.org";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A root, and an authority between it and the servers.
struct Company {
    root: String,
    between: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Company {
    fn new() -> Self {
        let (root_key, between_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = authority("Company root");
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let root = Issuer::new(root, root_key);
        let between = authority("Company servers");
        let between_pem = between.signed_by(&between_key, &root).unwrap().pem();
        Self { root: root_pem, between: between_pem, issuer: Issuer::new(between, between_key) }
    }

    /// A certificate for `host` until `end`, and its key.
    fn sign(&self, host: &str, end: Timestamp) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(host, end).signed_by(&key, &self.issuer).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    fn full_chain(&self, leaf: &str) -> String {
        format!("{leaf}{}{}", self.between, self.root)
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn leaf(host: &str, end: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, host);
    params.not_after = (std::time::UNIX_EPOCH + Duration::from_millis(end.0 as u64)).into();
    params
}

fn in_a_month() -> Timestamp {
    Timestamp::now().plus(30 * DAY)
}

/// The two files, as certbot lays them out: links into a folder of versions.
struct Files(TempDir);

impl Files {
    fn new(chain: &str, key: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.put("fullchain.pem", chain);
        files.put("privkey.pem", key);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let versions = fs::read_dir(self.0.path()).unwrap().count();
        let version = self.path(&format!("{versions}-{name}"));
        fs::write(&version, text).unwrap();
        let link = self.path("link");
        std::os::unix::fs::symlink(&version, &link).unwrap();
        fs::rename(link, self.path(name)).unwrap();
    }

    fn open(&self, system: &Roots) -> Result<Certificates, String> {
        let now = Timestamp::now();
        Certificates::files_with(
            &self.path("fullchain.pem"),
            &self.path("privkey.pem"),
            HOST,
            system.clone(),
            now,
        )
        .map_err(|error| error.to_string().replace(&format!("{}/", self.0.path().display()), ""))
    }
}

fn trusting(pem: &str) -> Roots {
    Roots::of(&certificates(pem.as_bytes()).unwrap())
}

fn nobody() -> Roots {
    Roots::of(&[])
}

#[test]
fn what_is_wrong_with_the_files_is_said_with_the_file_and_what_to_do() {
    let company = Company::new();
    let (leaf_pem, key) = company.sign(HOST, in_a_month());
    let (other, _) = company.sign("elsewhere.example.org", in_a_month());
    let (_, stray) = company.sign(HOST, in_a_month());
    let both = {
        let mut params = leaf(HOST, in_a_month());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let chain = company.full_chain(&leaf_pem);
    let swapped = format!("{leaf_pem}{}{}", company.root, company.between);
    let backwards = format!("{}{leaf_pem}", company.between);
    let cases = [
        ("no certificate", "", key.as_str()),
        ("no key", &chain, "nothing"),
        ("the key of another", &chain, &stray),
        ("the authority first", &backwards, &key),
        ("links swapped", &swapped, &key),
        ("another host", &company.full_chain(&other), &stray),
        ("the leaf alone", &leaf_pem, &key),
        ("an authority that serves", &both.0, &both.1),
    ];
    let said = cases.map(|(case, chain, key)| {
        let error = Files::new(chain, key).open(&nobody()).map(drop).unwrap_err();
        format!("{case}:\n  {error}\n")
    });
    let files = Files::new(&chain, &key);
    fs::remove_file(files.path("privkey.pem")).unwrap();
    let missing = files.open(&nobody()).map(drop).unwrap_err();
    insta::assert_snapshot!(format!("{}no file:\n  {missing}", said.concat()), @r"
    no certificate:
      fullchain.pem holds no usable certificate: there is no `BEGIN CERTIFICATE` in it
    no key:
      privkey.pem holds no usable private key: no items found
    the key of another:
      the key in privkey.pem does not belong to the first certificate in fullchain.pem: write the server's certificate first, and its own key
    the authority first:
      in fullchain.pem certificate 1 (`Company servers`) is not signed by the one after it: write the server's first, then each one's issuer
    links swapped:
      in fullchain.pem certificate 1 (`registry.example.org`) is not signed by the one after it: write the server's first, then each one's issuer
    another host:
      the certificate in fullchain.pem is for elsewhere.example.org, not for `registry.example.org`: set `registry.host` to a name it has, or get one for `registry.example.org`
    the leaf alone:
      the chain in fullchain.pem is incomplete: its issuer `Company servers` is neither in the file nor trusted by this system: use the full chain (`fullchain.pem`), or append the certificate of `Company servers`
    an authority that serves:
      the certificate in fullchain.pem would be refused by clients: it is an authority's and a server's at once; make one with `basicConstraints=CA:FALSE`
    no file:
      cannot read privkey.pem
    ");
}

#[test]
fn the_server_itself_trusts_the_system_where_that_is_enough_and_else_what_the_chain_ends_in() {
    let company = Company::new();
    let (leaf, key) = company.sign(HOST, in_a_month());
    let known = Files::new(&format!("{leaf}{}", company.between), &key);
    assert_eq!(known.open(&trusting(&company.root)).unwrap().ca_pem(), None);

    // Whatever is handed out verifies the chain by itself.
    for (chain, anchor) in
        [(company.full_chain(&leaf), &company.root), (format!("{leaf}{}", company.between), &company.between)]
    {
        let ca = Files::new(&chain, &key).open(&nobody()).unwrap().ca_pem().unwrap();
        assert_eq!(certificates(ca.as_bytes()).unwrap(), certificates(anchor.as_bytes()).unwrap());
        trusting(&ca).verify(&certificates(chain.as_bytes()).unwrap(), Timestamp::now()).unwrap();
    }

    let own_key = KeyPair::generate().unwrap();
    let own = self::leaf(HOST, in_a_month()).self_signed(&own_key).unwrap().pem();
    let ca = Files::new(&own, &own_key.serialize_pem()).open(&nobody()).unwrap().ca_pem().unwrap();
    assert_eq!(certificates(ca.as_bytes()).unwrap(), certificates(own.as_bytes()).unwrap());
}

#[test]
fn one_that_has_expired_is_served_with_a_warning_so_that_its_successor_is_taken_up() {
    let company = Company::new();
    let now = Timestamp::now();
    let (leaf, key) = company.sign(HOST, Timestamp(now.0 - 1000));
    let files = Files::new(&company.full_chain(&leaf), &key);
    let served = files.open(&nobody()).unwrap();
    assert!(served.warning(now).unwrap().ends_with("has expired and every client refuses it: renew it"));
    let (leaf, key) = company.sign(HOST, now.plus(20 * DAY));
    files.put("fullchain.pem", &company.full_chain(&leaf));
    files.put("privkey.pem", &key);
    served.look(now);
    served.look(now);
    assert_eq!(served.warning(now), None);
    let later = now.plus(7 * DAY);
    assert!(served.warning(later).unwrap().contains("ends in 12 days and nothing has renewed it"));
}

struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    fn open(address: SocketAddr, root: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(root.as_bytes()).unwrap());
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(HOST).unwrap()).unwrap();
        let mut stream = StreamOwned::new(tls, TcpStream::connect(address).unwrap());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        Self(stream)
    }

    fn shown(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone()
    }

    /// The status of a request on this connection, which stays open.
    fn ask(&mut self) -> String {
        self.0.write_all(b"HEAD /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head[9..12].to_vec()).unwrap()
    }
}

fn first(pem: &str) -> CertificateDer<'static> {
    certificates(pem.as_bytes()).unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_see_the_new_certificate_open_ones_go_on_and_a_bad_pair_changes_nothing() {
    let (company, now) = (Company::new(), Timestamp::now());
    let (old, old_key) = company.sign(HOST, in_a_month());
    let (new, new_key) = company.sign(HOST, in_a_month());
    let (stranger, stranger_key) = Company::new().sign(HOST, in_a_month());
    let files = Files::new(&company.full_chain(&old), &old_key);
    let served = files.open(&nobody()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let yard = Yard::new();
    let serving = tokio::spawn(serve(
        listener,
        yard.registry.clone(),
        served.server_config().unwrap(),
        std::future::pending(),
    ));
    let connect = || Connection::open(address, &company.root);
    let mut open = connect();
    assert_eq!(open.shown(), first(&old));

    // In the middle of a replacement the pair does not match; nobody is served that.
    files.put("fullchain.pem", &company.full_chain(&new));
    for _ in 0..3 {
        served.look(now);
        assert_eq!(connect().shown(), first(&old));
    }
    files.put("privkey.pem", &new_key);
    served.look(now);
    assert_eq!(connect().shown(), first(&old), "a change counts once it rests");
    served.look(now);
    assert_eq!(connect().shown(), first(&new));
    assert_eq!(open.ask(), "401");

    let (gone, gone_key) = company.sign(HOST, Timestamp(now.0 - 1000));
    for (chain, key) in
        [(stranger.as_str(), stranger_key.as_str()), (&company.full_chain(&gone), &gone_key), ("", "")]
    {
        files.put("fullchain.pem", chain);
        files.put("privkey.pem", key);
        for _ in 0..2 {
            served.look(now);
        }
        assert_eq!(connect().shown(), first(&new));
    }
    fs::remove_file(Path::new(&files.path("privkey.pem"))).unwrap();
    served.look(now);
    served.look(now);
    assert_eq!(connect().shown(), first(&new));
    assert_eq!(open.ask(), "401");
    serving.abort();
}
