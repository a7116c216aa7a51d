//! Seals a secret in the guest's TPM and opens it again, in the TPM's own words (TPM 2.0, part 3): so few that no library is
//! worth its size in every guest's root file system.
//!
//! The blob that is left in a file is of use only to the TPM that made it: it is wrapped by a key that follows from the owner
//! hierarchy's seed, and that never leaves the TPM.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
};

use crate::Outcome;

/// Through the kernel's resource manager: what was loaded goes when the file is closed.
const DEVICE: &str = "/dev/tpmrm0";
const OWNER: u32 = 0x4000_0001;
const CREATE_PRIMARY: u32 = 0x131;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const UNSEAL: u32 = 0x15e;
/// Header (tag, size, code) and the size of the parameters; a handle stands between, where there is one.
const HEADER: usize = 10;

pub(crate) fn seal(secret: &str, file: &str) -> Outcome {
    let mut tpm = Tpm::open()?;
    let parent = tpm.primary()?;
    let sensitive = [sized(&[]), sized(secret.as_bytes())].concat();
    // A keyed hash without scheme is data: fixed to this TPM and parent, opened with the (empty) password.
    let public =
        [words(&[0x0008, 0x000b]), 0x52_u32.to_be_bytes().to_vec(), sized(&[]), words(&[0x0010]), sized(&[])];
    let parameters =
        [sized(&sensitive), sized(&public.concat()), sized(&[]), 0_u32.to_be_bytes().to_vec()].concat();
    let answer = tpm.ask(CREATE, parent, &parameters)?;
    let blob = answer.get(HEADER + 4..).ok_or("the TPM's answer is too short")?;
    let private = pair(blob).ok_or("the TPM's answer has no object in it")?;
    Ok(fs::write(file, private)?)
}

/// Prints it.
pub(crate) fn unseal(file: &str) -> Outcome {
    let mut tpm = Tpm::open()?;
    let parent = tpm.primary()?;
    let loaded = tpm.ask(LOAD, parent, &fs::read(file)?)?;
    let answer = tpm.ask(UNSEAL, number(&loaded, HEADER)?, &[])?;
    let data = answer.get(HEADER + 4..).and_then(one).ok_or("the TPM's answer has no data in it")?;
    println!("{}", String::from_utf8_lossy(data.get(2..).unwrap_or_default()));
    Ok(())
}

struct Tpm(File);

impl Tpm {
    fn open() -> Result<Tpm, Box<dyn std::error::Error>> {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE);
        file.map(Tpm).map_err(|e| format!("{DEVICE}: {e}").into())
    }

    /// A storage key on P-256: the same one whenever it is made, in one TPM.
    fn primary(&mut self) -> Result<u32, Box<dyn std::error::Error>> {
        let attributes = 0x0003_0072_u32.to_be_bytes().to_vec();
        // AES 128 CFB, no scheme, P-256, no derivation.
        let parameters = words(&[0x0006, 128, 0x0043, 0x0010, 0x0003, 0x0010]);
        let public =
            [words(&[0x0023, 0x000b]), attributes, sized(&[]), parameters, sized(&[]), sized(&[])].concat();
        let sensitive = [sized(&[]), sized(&[])].concat();
        let parameters =
            [sized(&sensitive), sized(&public), sized(&[]), 0_u32.to_be_bytes().to_vec()].concat();
        number(&self.ask(CREATE_PRIMARY, OWNER, &parameters)?, HEADER)
    }

    /// With the empty password.
    fn ask(
        &mut self,
        code: u32,
        handle: u32,
        parameters: &[u8],
    ) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let password = [&0x4000_0009_u32.to_be_bytes()[..], &[0, 0, 0, 0, 0]].concat();
        let size = HEADER + 4 + 4 + password.len() + parameters.len();
        let mut command = words(&[0x8002]);
        for number in [u32::try_from(size)?, code, handle, u32::try_from(password.len())?] {
            command.extend(number.to_be_bytes());
        }
        command.extend([&password, parameters].concat());
        self.0.write_all(&command)?;
        let mut answer = vec![0; 4096];
        let read = self.0.read(&mut answer)?;
        answer.truncate(read);
        match number(&answer, 6)? {
            0 => Ok(answer),
            refused => Err(format!("the TPM refused command {code:#x}: {refused:#x}").into()),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u32, Box<dyn std::error::Error>> {
    let bytes = bytes.get(at..at + 4).ok_or("the TPM's answer is too short")?;
    Ok(u32::from_be_bytes(bytes.try_into()?))
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// With its size before it, as a TPM2B.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&size.to_be_bytes()[..], bytes].concat()
}

/// The first TPM2B, with its size.
fn one(bytes: &[u8]) -> Option<&[u8]> {
    let size = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
    bytes.get(..2 + usize::from(size))
}

/// The first two.
fn pair(bytes: &[u8]) -> Option<&[u8]> {
    let first = one(bytes)?.len();
    let second = one(bytes.get(first..)?)?.len();
    bytes.get(..first + second)
}
