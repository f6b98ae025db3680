//! A policy made of one rule and the backend that runs it.

use crate::assignment::Assignment;
#[cfg(feature = "ascend")]
use crate::backend::ascend::result::Counters;
use crate::backend::{Backend, Chosen, Reference};
use crate::batch::Batch;
#[cfg(feature = "ascend")]
use crate::policy::{Decided, Ticket};
use crate::policy::{Needs, Policy, Rule};

/// A policy made of one rule.
#[derive(Debug)]
pub(crate) struct RulePolicy<R> {
    pub name: &'static str,
    pub needs: Needs,
    pub rule: R,
    pub backend: Chosen,
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

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        Reference.assign(&mut self.rule, batch, out);
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
    fn submit(&mut self, batch: &Batch<'_>) -> Ticket {
        match &mut self.backend {
            Chosen::Offload(backend) => backend.submit(&mut self.rule, batch),
            _ => Ticket::default(),
        }
    }

    #[cfg(feature = "ascend")]
    fn poll(&mut self, ticket: &Ticket) -> bool {
        match &self.backend {
            Chosen::Offload(backend) => backend.device().poll(ticket.serial),
            _ => true,
        }
    }

    #[cfg(feature = "ascend")]
    fn collect(
        &mut self,
        ticket: Ticket,
        batch: &Batch<'_>,
        timeout: std::time::Duration,
        out: &mut Assignment,
    ) -> Decided {
        if let Chosen::Offload(backend) = &mut self.backend {
            return backend.collect(&mut self.rule, ticket, (batch, timeout), out);
        }
        self.decide(batch, out);
        Decided::Cpu
    }

    #[cfg(feature = "ascend")]
    fn discard(&mut self, ticket: Ticket) {
        if let Chosen::Offload(backend) = &mut self.backend {
            backend.device_mut().discard(ticket.serial);
        }
    }

    #[cfg(feature = "ascend")]
    fn device_counters(&self) -> Option<Counters> {
        match &self.backend {
            Chosen::Offload(backend) => backend.device().counters(),
            _ => None,
        }
    }
}
