//! Many batches in one launch, one block of the device each.

use super::super::blob::{self, DevicePick, Kept, MAX_BATCHES, Packing, Problem, Work};
use super::super::sys;
use super::Outcome;
use super::device::{Device, Transport};
use super::one::{DeviceFailed, fits, launched};

impl Device {
    /// The picks of many decisions from one launch, one block each. A decision that only the CPU can make has
    /// no problem here.
    pub(crate) fn many(&mut self, problems: &[Option<Problem<'_>>]) -> Vec<(Option<Work>, Vec<DevicePick>)> {
        let mut answers: Vec<(Option<Work>, Vec<DevicePick>)> = Vec::new();
        answers.resize_with(problems.len(), Default::default);
        let mut packed = Vec::with_capacity(problems.len());
        let soc = match self.soc() {
            Ok(soc) => soc,
            Err(outcome) => {
                self.note(outcome);
                return answers;
            }
        };
        for (index, problem) in problems.iter().enumerate() {
            let mut packing = Packing::default();
            let planned = match problem {
                Some(problem) if packed.len() < MAX_BATCHES => packing.plan(problem, soc),
                Some(_) => Err(Kept::Limit {
                    what: "batches",
                    limit: MAX_BATCHES as i64,
                    found: problems.len() as i64,
                }),
                None => Err(Kept::NoProfileSpec),
            };
            match (planned, problem) {
                (Ok(()), Some(problem)) => {
                    packing.share();
                    packed.push((index, problem, packing));
                }
                (Ok(()), None) => {}
                (Err(kept), _) => self.note(Outcome::Kept(kept)),
            }
        }
        if packed.is_empty() {
            return answers;
        }
        let (mut from, mut to) = (blob::launch_head_bytes(packed.len()), 0);
        let mut offsets = Vec::with_capacity(packed.len());
        for (_, _, packing) in &packed {
            offsets.push((from, to));
            from += packing.in_bytes();
            to += packing.out_bytes();
        }
        let write = |input: &mut [u8], output: &mut [u8]| {
            blob::write_launch_head(&offsets, input);
            for ((_, problem, packing), &(from, to)) in packed.iter().zip(&offsets) {
                packing.write(problem, &mut input[from..from + packing.in_bytes()]);
                output[to..to + packing.zeroed_bytes()].fill(0);
            }
        };
        let mut read = |output: &[u8]| {
            let mut refused = Vec::new();
            for ((index, _, packing), &(_, to)) in packed.iter().zip(&offsets) {
                let (work, picks) = &mut answers[*index];
                match packing.read(&output[to..to + packing.out_bytes()], picks) {
                    Ok(done) => *work = Some(done),
                    Err(error) => refused.push(error),
                }
            }
            refused
        };
        let blocks = packed.len() as u32;
        let refused = match &mut self.transport {
            Transport::Launcher(launcher) => {
                let input = self.input.take(from);
                let output = self.output.take(to);
                write(input, output);
                let launches = [(blob::ENTRY_GREEDY, blocks)];
                if launched(&mut **launcher, &launches, input, output) {
                    Ok(read(output))
                } else {
                    Ok(Vec::new())
                }
            }
            Transport::Queue(queue, timeout) => {
                let sizes = (from, to);
                let job = queue.submit(|input, output| {
                    fits(sizes, (input.len(), output.len()))?;
                    write(input, output);
                    let mut job = sys::Job {
                        input_bytes: from,
                        output_bytes: to,
                        head_bytes: to,
                        ..sys::Job::default()
                    };
                    job.launches[0] = sys::KernelLaunch { function: 1, blocks };
                    job.launch_count = 1;
                    Ok(job)
                });
                job.and_then(|handle| queue.collect(handle, *timeout, &mut read)).map(|(refused, _)| refused)
            }
        };
        match refused {
            Ok(refused) => {
                for error in refused {
                    self.note(Outcome::Refused(error));
                }
            }
            Err(error) => {
                self.fallback = Some(error);
                self.note(Outcome::Failed(&DeviceFailed));
            }
        }
        answers
    }
}
