//! A policy made of one rule and the backend that runs it.

use std::time::Duration;

use crate::assignment::Assignment;
use crate::backend::ascend::result::Counters;
use crate::backend::{Backend, Chosen};
use crate::batch::Batch;
#[cfg(feature = "record")]
use crate::policy::Parameters;
use crate::policy::{Decided, Policy, Submissions, Ticket};
use crate::rule::{Needs, Rule};

/// A policy made of one rule.
#[derive(Debug)]
pub(crate) struct RulePolicy<R> {
    pub name: &'static str,
    pub needs: Needs,
    pub rule: R,
    pub backend: Chosen,
    /// The parameters of one that [`build`](crate::policy::build) has built.
    #[cfg(feature = "record")]
    pub built_from: Option<Box<Parameters>>,
}

impl<R: Rule + Send> Policy for RulePolicy<R> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        self.backend.assign(&mut self.rule, batch, out);
    }

    #[cfg(feature = "record")]
    fn built_from(&self) -> Option<&Parameters> {
        self.built_from.as_deref()
    }

    fn rule(&mut self) -> Option<&mut dyn Rule> {
        Some(&mut self.rule)
    }

    fn score_into(&mut self, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) -> bool {
        self.backend.score_into(&mut self.rule, batch, score_tokens);
        true
    }

    fn describe(&self) -> String {
        self.backend.describe()
    }

    fn dense_columns(&self) -> (u64, u64) {
        match &self.backend {
            Chosen::Auto(backend) => backend.dense_columns(),
            Chosen::Cpu(backend) => backend.dense_columns(),
            _ => (0, 0),
        }
    }

    #[cfg(feature = "ascend")]
    fn device(&mut self) -> Option<&mut dyn Submissions> {
        matches!(self.backend, Chosen::Offload(_)).then_some(self as &mut dyn Submissions)
    }
}

/// Without a device nothing is handed over, and the CPU decides when the answer is collected.
impl<R: Rule + Send> Submissions for RulePolicy<R> {
    #[cfg_attr(not(feature = "ascend"), expect(unused_variables, reason = "no device in this build"))]
    fn submit(&mut self, batch: &Batch<'_>) -> Ticket {
        match &mut self.backend {
            #[cfg(feature = "ascend")]
            Chosen::Offload(backend) => backend.submit(&mut self.rule, batch),
            _ => Ticket::default(),
        }
    }

    #[cfg_attr(not(feature = "ascend"), expect(unused_variables, reason = "no device in this build"))]
    fn poll(&self, ticket: &Ticket) -> bool {
        match &self.backend {
            #[cfg(feature = "ascend")]
            Chosen::Offload(backend) => backend.device().poll(ticket.serial),
            _ => true,
        }
    }

    #[cfg_attr(not(feature = "ascend"), expect(unused_variables, reason = "no device in this build"))]
    fn collect(
        &mut self,
        ticket: Ticket,
        batch: &Batch<'_>,
        timeout: Duration,
        out: &mut Assignment,
    ) -> Decided {
        match &mut self.backend {
            #[cfg(feature = "ascend")]
            Chosen::Offload(backend) => backend.collect(&mut self.rule, ticket, (batch, timeout), out),
            _ => {
                self.decide(batch, out);
                Decided::Cpu
            }
        }
    }

    #[cfg_attr(not(feature = "ascend"), expect(unused_variables, reason = "no device in this build"))]
    fn discard(&mut self, ticket: Ticket) {
        #[cfg(feature = "ascend")]
        if let Chosen::Offload(backend) = &mut self.backend {
            backend.device_mut().discard(ticket.serial);
        }
    }

    fn counters(&self) -> Option<Counters> {
        match &self.backend {
            #[cfg(feature = "ascend")]
            Chosen::Offload(backend) => backend.device().counters(),
            _ => None,
        }
    }
}
