//! In the decoder's place: it reads the bytes that it is given, takes its time, dies and hangs.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use mmlnb_appliance::assess::appearance::Appearance;
use mmlnb_appliance::assess::reader::{Decoded, Decoder, Found, Unread};
use mmlnb_appliance::assess::wire::{Ask, Want};
use mmlnb_appliance::ledger::Rejection;
use mmlnb_appliance::{failpoint, world};
use mmlnb_models::prepare::decode::Rgb8Image;

use crate::content::{self, Catalogue, Kind};
use crate::machine::Machine;

pub struct StandIn {
    pub machine: Arc<Machine>,
    pub catalogue: Arc<Catalogue>,
    pub limit: Duration,
}

impl Decoder for StandIn {
    fn ask(&mut self, ask: &Ask, file: BorrowedFd<'_>) -> Result<Found, Unread> {
        let later = |error: io::Error| Unread::Later(format!("the decoder could not be started: {error}"));
        failpoint::pass("decode.spawn").map_err(later)?;
        let bytes = file.try_clone_to_owned().map(File::from).and_then(|file| read(&file)).map_err(later)?;
        world::sleep(self.machine.chance(|chance| chance.time(5, 500)));
        if ask.want == Want::Slide || !content::is_image(&bytes) {
            return match content::is_image(&bytes) || ask.want == Want::Slide {
                true => Ok(Found::Fine),
                false => Err(Unread::Rejected(rejection("not_an_image", "This is no image"))),
            };
        }
        if !content::is_whole(&bytes) {
            return Ok(Found::Unfinished("its end mark is missing".into()));
        }
        if ask.hollow && ask.patient {
            return Ok(Found::Unfinished("a part of it is only reserved".into()));
        }
        let Some((kind, number)) = self.catalogue.find(&content::hash(&bytes)) else {
            return Err(Unread::Rejected(rejection("not_an_image", "Nobody knows these bytes")));
        };
        match kind {
            Kind::Damaged => Err(Unread::Rejected(rejection("damaged", "It is damaged"))),
            Kind::KillsDecoder => Err(Unread::Died(rejection("decoder_died", "The decoder ended on this file"))),
            Kind::HangsDecoder => {
                world::sleep(self.limit);
                Err(Unread::Died(rejection("decoder_died", "The decoder did not finish")))
            }
            Kind::Slide => Ok(Found::Slide("Aperio".into(), None)),
            Kind::Good
            | Kind::Unsuitable
            | Kind::NoNumbers
            | Kind::Fails(_)
            | Kind::Hangs
            | Kind::HangsAll
            | Kind::KillsProgram => Ok(Found::Image(Box::new(decoded(number)))),
        }
    }

    fn thumbnail(&mut self) -> Result<Vec<u8>, Unread> {
        Ok(vec![0xff, 0xd8, 0xff, 0xd9])
    }

    fn sides(&self) -> (u32, u32) {
        (8192, 1)
    }
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn decoded(number: u32) -> Decoded {
    let pixels: Vec<u8> = (0..48).map(|at| (number.wrapping_mul(2_654_435_761) >> (at % 24)) as u8).collect();
    let rgb = Rgb8Image { width: 4, height: 4, pixels };
    let appearance = Appearance::of(&rgb, None, false);
    Decoded { format: "PNG".into(), rgb, appearance }
}

fn rejection(code: &str, message: &str) -> Rejection {
    Rejection { code: code.into(), message: message.into() }
}
