use std::io::Write as _;

use super::*;

const EXAMPLE: &str = r#"
id = 1
dir = "/var/lib/gabion/m1"
key_file = "root.key"
raft_listen = "0.0.0.0:7101"
client_listen = "0.0.0.0:7001"

[[members]]
id = 1
raft = "m1.example:7101"
client = "m1.example:7001"

[[members]]
id = 2
raft = "[2001:db8::2]:7101"
client = "[2001:db8::2]:7001"
"#;

fn load(text: &str, flags: &[&str]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let flags: Vec<_> = flags.iter().map(|flag| Override::from_flag(flag).unwrap()).collect();
    let config: Config = config::load(Some(file.path()), &flags).map_err(|error| error.to_string())?;
    config.check().map_err(|error| error.to_string())?;
    Ok(config)
}

#[test]
fn the_example_is_fine_and_its_own_addresses_come_from_the_list() {
    let config = load(EXAMPLE, &[]).unwrap();
    assert_eq!(config.raft_address(), "m1.example:7101");
    assert_eq!(config.client_address(), "m1.example:7001");
    assert_eq!(config.timing.lost, Span::from_millis(15_000));
    assert_eq!(config.cluster.chunk_size, Size(64 << 20));
    assert_eq!(config.cluster.trash, Span::from_millis(24 * 3_600_000));
}

#[test]
fn what_is_printed_can_be_read_again() {
    let config = load(EXAMPLE, &["timing.lost=20s", "cluster.replicas=2", "cluster.trash=0s"]).unwrap();
    assert_eq!(load(&toml::to_string(&config).unwrap(), &[]).unwrap(), config);
}

#[test]
fn mistakes_name_their_key() {
    for (flags, named) in [
        (&["id=0"][..], "id must be"),
        (&["id=3"], "members does not name this master (id = 3)"),
        (&["insecure=true"], "exclude each other"),
        (&["raft_listen=7101"], "raft_listen"),
        (&["client_listen=h:0"], "client_listen"),
        (&["client_listen=0.0.0.0:7101"], "its own port"),
        (&["raft_advertise=0.0.0.0:7101"], "raft_advertise"),
        (&["client_advertise=elsewhere:1"], "members gives master 1"),
        (&["cluster.replicas=0"], "cluster.replicas"),
        (&["cluster.replicas=11"], "cluster.replicas"),
        (&["cluster.chunk_size=1000000"], "cluster.chunk_size"),
        (&["timing.suspect=1s"], "timing.suspect"),
        (&["timing.lost=1500ms"], "timing.lost"),
        (&["timing.tick=1m"], "timing.tick"),
        (&["raft.snapshot_every=0"], "raft.snapshot_every"),
        (&["timing.suspekt=3s"], "suspekt"),
        (&["colour=blue"], "colour"),
    ] {
        let error = load(EXAMPLE, flags).expect_err(named);
        assert!(error.contains(named), "{flags:?}: {error}");
    }
    let twice = EXAMPLE.replace("id = 2", "id = 1");
    assert!(load(&twice, &[]).unwrap_err().contains("id 1 twice"));
}

#[test]
fn without_a_key_only_loopback_and_only_when_told() {
    let open = EXAMPLE.replace("key_file = \"root.key\"", "");
    assert!(load(&open, &[]).unwrap_err().contains("key_file is missing"));
    let insecure = ["insecure=true"];
    assert!(load(&open, &insecure).unwrap_err().contains("raft_listen"));
    let raft_only = open.replace("\"0.0.0.0:7101\"", "\"127.0.0.1:7101\"");
    assert!(load(&raft_only, &insecure).unwrap_err().contains("client_listen"));
    let local = raft_only.replace("\"0.0.0.0:7001\"", "\"[::1]:7001\"");
    assert!(load(&local, &insecure).is_ok());
    let named = raft_only.replace("\"0.0.0.0:7001\"", "\"localhost.example:7001\"");
    assert!(load(&named, &insecure).is_err());
}

#[test]
fn a_joining_master_needs_no_list() {
    let text = EXAMPLE.split("[[members]]").next().unwrap();
    assert!(load(text, &[]).is_err());
    let error = load(text, &["join=true"]).unwrap_err();
    assert!(error.contains("raft_advertise"), "nobody can reach 0.0.0.0: {error}");
    let advertised = ["join=true", "raft_advertise=h:1", "client_advertise=h:2"];
    assert_eq!(load(text, &advertised).unwrap().raft_address(), "h:1");
}
