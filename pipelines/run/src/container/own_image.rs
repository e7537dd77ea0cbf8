//! An image of our own, for containers that only hold something: a volume, a network namespace.
//!
//! It holds one program that waits until it is killed, so nothing has to be pulled from anywhere.

use bollard::{models::ContainerCreateBody, query_parameters::CreateImageOptionsBuilder};
use bytes::Bytes;
use futures_util::StreamExt;

use super::{Made, create};
use crate::{StepFault, engine::Engine};

/// A change of what is in it needs another version.
const NAME: (&str, &str) = ("mergeyard/hold", "1");

/// The program in it.
pub(super) const HOLD: &str = "/hold";

pub(super) fn name() -> String {
    format!("{}:{}", NAME.0, NAME.1)
}

/// Makes a container of the image, and the image first where the engine does not have it.
pub(super) async fn create_of_it(
    engine: &Engine,
    container: &str,
    body: &ContainerCreateBody,
) -> Result<Made, StepFault> {
    match create(engine, container, body).await? {
        Made::NoImage => {
            import(engine).await?;
            create(engine, container, body).await
        }
        made => Ok(made),
    }
}

async fn import(engine: &Engine) -> Result<(), StepFault> {
    const WHAT: &str = "make the image of containers that hold";
    let docker = engine.docker().await?;
    let arch = engine.checked(WHAT, docker.version().await).await?.arch.unwrap_or_default();
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(NAME.0).tag(NAME.1).build();
    let archive = archive(&arch).map_err(|e| StepFault::lasting(format!("cannot {WHAT}: {e}")))?;
    let mut events = docker.create_image(Some(options), Some(bollard::body_full(Bytes::from(archive))), None);
    while let Some(event) = events.next().await {
        engine.checked(WHAT, event).await?;
    }
    Ok(())
}

/// For a machine that we have no program for it is empty: it still holds volumes.
fn archive(arch: &str) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    if let Some(program) = program(arch) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(program.len() as u64);
        tar.append_data(&mut header, HOLD.trim_start_matches('/'), program.as_slice())?;
    }
    tar.into_inner()
}

fn program(arch: &str) -> Option<Vec<u8>> {
    match arch {
        // pause: mov eax, 34; syscall; jmp pause
        "amd64" => Some(elf(62, &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7])),
        // ppoll(nothing, forever): mov x0..x3, 0; mov x8, 73; svc 0; b to the first
        "arm64" => {
            let words: [u32; 7] =
                [0xd280_0000, 0xd280_0001, 0xd280_0002, 0xd280_0003, 0xd280_0928, 0xd400_0001, 0x17ff_fffa];
            Some(elf(183, &words.map(u32::to_le_bytes).concat()))
        }
        _ => None,
    }
}

/// An executable of one segment that begins with its own header (System V ABI, "Object Files").
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    const PAGE: u64 = 0x1_0000;
    let size = u64::from(HEADERS) + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    };
    let long = |file: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    };
    half(&mut file, &[2, machine]); // an executable
    word(&mut file, &[1]);
    long(&mut file, &[BASE + u64::from(HEADERS), 64, 0]); // its entry, its program header, no sections
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    word(&mut file, &[1, 5]); // loaded, to be read and executed
    long(&mut file, &[0, BASE, BASE, size, size, PAGE]);
    file.extend(code);
    file
}
