//! In the engine's place: one thread, a few slots and the real line before them. It goes on token by token, and fails in every way in
//! which an engine can.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mmlnb_appliance::engine::{
    Asks, Assessment, Classification, Description, EngineError, Line, PatchImage, Request, StopReason,
};
use mmlnb_appliance::world::{self, Lacks, World};

use crate::content::{Catalogue, Kind};
use crate::machine::{Death, Machine};

type Answer = Result<Assessment, EngineError>;

struct Job {
    sha256: [u8; 32],
    kind: Kind,
    request: Request,
    reply: Arc<Mutex<Option<Answer>>>,
    tokens: usize,
}

impl Asks for Job {
    fn request(&self) -> &Request {
        &self.request
    }
}

impl Job {
    fn answer(self, answer: Answer) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

pub struct Engine {
    machine: Arc<Machine>,
    catalogue: Arc<Catalogue>,
    slots: usize,
    /// Time of a step and most tokens of a description.
    pace: (Duration, usize),
    line: Mutex<Line<Job>>,
}

impl Engine {
    pub fn new(machine: Arc<Machine>, catalogue: Arc<Catalogue>, slots: usize, pace: (Duration, usize)) -> Engine {
        Engine { machine, catalogue, slots, pace, line: Mutex::default() }
    }

    fn line(&self) -> MutexGuard<'_, Line<Job>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assesses an image; blocks.
    pub fn assess(&self, image: PatchImage, request: &Request) -> Answer {
        let Some((kind, _)) = self.catalogue.find(&image.sha256) else {
            return Err(EngineError::Image("nobody knows this image".into()));
        };
        let reply = Arc::new(Mutex::new(None));
        let tokens = self.machine.chance(|chance| chance.between(1, self.pace.1));
        self.line().join([Job { sha256: image.sha256, kind, request: request.clone(), reply: reply.clone(), tokens }]);
        self.machine.tell();
        loop {
            if let Some(answer) = reply.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return answer;
            }
            world::ask(|world| world.wait(Lacks::Work));
        }
    }

    /// Serves requests until the program ends; for a thread of its own.
    pub fn serve(&self) {
        let mut active: Vec<Job> = Vec::new();
        loop {
            self.dismiss();
            while active.len() < self.slots {
                let Some(job) = self.line().take_first() else { break };
                active.extend(self.admit(job));
                self.dismiss();
            }
            self.line().show_life();
            for at in (0..active.len()).rev() {
                if active[at].request.is_cancelled() {
                    active.swap_remove(at).answer(Err(EngineError::Cancelled));
                }
            }
            self.machine.tell();
            if active.is_empty() && self.line().is_empty() {
                world::ask(|world| world.wait(Lacks::Work));
            } else {
                self.step(&mut active);
            }
        }
    }

    fn dismiss(&self) {
        let cancelled = self.line().leave_cancelled();
        cancelled.into_iter().for_each(|job| job.answer(Err(EngineError::Cancelled)));
    }

    /// Reads the prompt; what is left to be written.
    fn admit(&self, job: Job) -> Option<Job> {
        world::sleep(self.pace.0);
        let faults = self.machine.faults(|faults| faults.clone());
        let error = match job.kind {
            _ if faults.memory => EngineError::Memory("Failed to allocate memory for requested buffer".into()),
            _ if faults.gpu => EngineError::Gpu("CUDA failure 700: an illegal memory access was encountered".into()),
            Kind::Unsuitable => EngineError::Image("its prompt has no room".into()),
            Kind::NoNumbers => EngineError::Numbers("NaN in layer 2".into()),
            Kind::Fails(times) if self.catalogue.fail(&job.sha256) < times => EngineError::Internal("a kernel failed".into()),
            Kind::KillsProgram => {
                self.machine.kill(Death::Own);
                return None;
            }
            Kind::HangsAll => loop {
                world::sleep(Duration::from_secs(600));
            },
            Kind::Good | Kind::Fails(_) | Kind::Hangs | Kind::Damaged | Kind::KillsDecoder | Kind::HangsDecoder | Kind::Slide => {
                (job.request.beat)();
                return Some(job);
            }
        };
        job.answer(Err(error));
        None
    }

    /// One more token for every request in a slot.
    fn step(&self, active: &mut Vec<Job>) {
        world::sleep(self.pace.0);
        let faults = self.machine.faults(|faults| faults.clone());
        for at in (0..active.len()).rev() {
            if active[at].kind == Kind::Hangs {
                continue;
            }
            (active[at].request.beat)();
            active[at].tokens -= 1;
            if faults.memory {
                active.swap_remove(at).answer(Err(EngineError::Memory("std::bad_alloc".into())));
            } else if active[at].tokens == 0 {
                let job = active.swap_remove(at);
                let answer = answer(&job.sha256);
                job.answer(Ok(answer));
            }
        }
    }
}

fn answer(sha256: &[u8; 32]) -> Assessment {
    let probabilities = vec![0.7, 0.2, 0.1];
    let logits: Vec<f32> = probabilities.iter().map(|value: &f64| value.ln() as f32).collect();
    Assessment {
        description: Some(Description {
            text: format!("Small round cells, variant {:02x}{:02x}.", sha256[0], sha256[1]),
            tokens: 7,
            mean_token_logprob: -0.4,
            stop_reason: StopReason::EndToken,
        }),
        classification: Some(Classification {
            classes: ["A", "B", "C"].map(String::from).to_vec(),
            logits: logits.clone(),
            probabilities: probabilities.clone(),
            image_logits: Some(logits.clone()),
            image_probabilities: Some(probabilities),
            novelty: None,
            stain_left: false,
            alpha_text: Some(0.4),
            logits_without_text: Some(logits),
            description_tokens_read: Some(7),
            description_read_until: Some(20),
        }),
        elapsed: vec![("describe", 5.0)],
        accepted: 0,
        trace: None,
    }
}
