//! The gateway alone, for the tests of this crate. In the product it is `mergeyard gateway`.

use std::{path::Path, process::ExitCode};

use mergeyard_run::gateway;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = Path::new(gateway::FOLDER);
    let done = match words[..] {
        ["gateway", "serve", "--port", port] => serve(port, folder),
        ["gateway", "orders"] => gateway::control(folder).map_err(|error| error.to_string()),
        ["gateway", "probe", probe] => run(async {
            println!("{}", gateway::probe_once(probe).await?);
            Ok(())
        }),
        _ => Err(format!("this is only a gateway, and not {}", words.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str, folder: &Path) -> Result<(), String> {
    let port = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    run(async { gateway::serve(port, folder).await.map_err(|error| error.to_string()) })
}

fn run(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(work)
}
