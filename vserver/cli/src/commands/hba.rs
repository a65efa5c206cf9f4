//! `weft hba generate` and `weft hba show`.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Read as _, Write as _};
use std::net::Ipv6Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use weft_shim::hba::{HbaSet, Parameters, Prefix, Search, SigningKey, prefix_of, sec_of};
use weft_stack::ip::address::Cidr;
use weft_stack::rng::Rng;

use crate::Error;

/// Modifiers tried between two lines of progress.
const ROUND: u64 = 1 << 16;
/// The longest key or parameter file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Options of `weft hba`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Addresses of several prefixes that prove each other (RFC 5535): a peer that knows the parameters can
tell that two of them are of one host. The parameters are no secret; a key is.")]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What `weft hba` does.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make a set: prints its addresses and writes its parameters
    Generate(Generate),
    /// Print the addresses of a parameter file
    Show(Show),
}

/// Options of `weft hba generate`.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// Prefixes of 64 bits, like 2001:db8:1::/64
    #[arg(required = true)]
    pub prefixes: Vec<String>,
    /// Where the parameters go; must not be there yet
    #[arg(short, long, default_value = "hba.pds")]
    pub output: PathBuf,
    /// Work that a forger must repeat: 0 none, 1 a blink, 2 hours
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub sec: u8,
    /// RSA key (PKCS#8) whose owner may sign for further addresses later
    #[arg(short, long)]
    pub key: Option<PathBuf>,
    /// Give up after so many times the work expected
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub patience: u64,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Options of `weft hba show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Parameter file
    pub file: PathBuf,
    /// The address or prefix that begins the set says nothing of Sec; with what it was made
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub sec: u8,
    /// Addresses were in use so often: the set after that many collisions, written back
    #[arg(long)]
    pub collided: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Makes or shows a set.
pub fn run(args: &Args) -> Result<(), Error> {
    match &args.action {
        Action::Generate(args) => generate(args),
        Action::Show(args) => show(args),
    }
}

fn generate(args: &Generate) -> Result<(), Error> {
    let prefixes =
        args.prefixes.iter().map(|t| prefix(t)).collect::<Result<Vec<Prefix>, Error>>()?;
    let key = args.key.as_deref().map(read_key).transpose()?;
    let mut seed = [0; 16];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::Failed(format!("no random numbers: {e}")))?;
    let der = key.as_ref().map(SigningKey::public_der);
    let limit = (1u64 << (16 * args.sec)).saturating_mul(args.patience);
    let search = Search::new(&prefixes, args.sec, der, limit, &mut Rng::new(seed));
    let set = find(search.map_err(|e| Error::Config(e.to_string()))?)?;
    // The parameters are what a peer is sent; they may be read by anybody.
    let told = |e| Error::Failed(format!("write '{}': {e}", args.output.display()));
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o644).open(&args.output).map_err(told)?;
    file.write_all(&set.parameters().emit()).map_err(told)?;
    print(&set, args.json)
}

/// Searches with progress for whoever watches.
fn find(mut search: Search) -> Result<HbaSet, Error> {
    let watched = std::io::stderr().is_terminal() && search.expected() > ROUND;
    loop {
        match search.advance(ROUND).map_err(|e| Error::Failed(e.to_string()))? {
            Some(set) => {
                if watched {
                    eprintln!();
                }
                return Ok(set);
            }
            None if watched => {
                let percent = search.tried() as f64 * 100.0 / search.expected() as f64;
                eprint!("\r{} modifiers, {percent:.1} % of the work expected", search.tried());
            }
            None => {}
        }
    }
}

fn show(args: &Show) -> Result<(), Error> {
    let bytes = read(&args.file)?;
    let wrong = |e: &dyn std::fmt::Display| {
        Error::Failed(format!("parameter file '{}': {e}", args.file.display()))
    };
    let parameters = Parameters::parse(&bytes).map_err(|e| wrong(&e))?;
    let mut set = HbaSet::restore(parameters, args.sec);
    let [first, ..] = set.addresses() else {
        return Err(wrong(&"a plain CGA, without a list of prefixes"));
    };
    set.parameters().verify(*first).map_err(|e| wrong(&format!("{e}; was it another Sec?")))?;
    if args.collided {
        set.collided().map_err(|e| Error::Failed(e.to_string()))?;
        std::fs::write(&args.file, set.parameters().emit()).map_err(|e| wrong(&e))?;
    }
    print(&set, args.json)
}

fn print(set: &HbaSet, json: bool) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let addresses: Vec<String> = set.addresses().iter().map(Ipv6Addr::to_string).collect();
    if json {
        let parameters = set.parameters();
        let text = serde_json::json!({
            "schema_version": 1,
            "addresses": addresses,
            "sec": set.addresses().first().map(|a| sec_of(*a)),
            "collisions": parameters.collisions,
            "signs": parameters.has_key(),
        });
        return Ok(writeln!(out, "{text}")?);
    }
    for address in addresses {
        writeln!(out, "{address}/64")?;
    }
    Ok(())
}

fn prefix(text: &str) -> Result<Prefix, Error> {
    let network = text.parse::<Cidr>().ok().filter(|c| c.prefix_len == 64 && c.network() == *c);
    match network.map(|c| c.addr) {
        Some(std::net::IpAddr::V6(address)) => Ok(prefix_of(address)),
        _ => Err(Error::Config(format!("'{text}' is no prefix; write one like 2001:db8:1::/64"))),
    }
}

/// Reads a private key; one that others may read is refused.
fn read_key(path: &Path) -> Result<SigningKey, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let told =
        |e: &dyn std::fmt::Display| Error::Failed(format!("key file '{}': {e}", path.display()));
    let mode = std::fs::metadata(path).map_err(|e| told(&e))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(told(&"others may read it; chmod 600 it"));
    }
    SigningKey::from_pkcs8(&read(path)?).map_err(|e| told(&e))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let told = |e| Error::Failed(format!("read '{}': {e}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(told)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(told)?;
    Ok(bytes)
}
