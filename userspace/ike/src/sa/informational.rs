//! INFORMATIONAL (RFC 7296 §1.4): Delete, liveness, and what a peer reports.

use mitregate_wire::ike::{Delete, NotifyType, Payload};

use super::message::find_notify;
use super::window::{Task, Work};
use super::{Fate, IkeSa, Phase};
use crate::{Ctx, Reason};

impl IkeSa {
    /// Asks for a sign of life (RFC 7296 §2.4): `LivenessAnswered`, or in the end
    /// `Closed(Timeout)`.
    pub fn check_liveness(&mut self, cx: &mut Ctx<'_>) {
        let waits = self
            .tasks
            .iter()
            .any(|task| matches!(task.work, Work::Liveness));
        if matches!(self.phase, Phase::Established) && !waits {
            self.tasks.push_back(Task::now(Work::Liveness));
            self.start_tasks(cx);
        }
    }

    pub(super) fn answer_informational(&mut self, payloads: &[Payload]) -> (Vec<Payload>, Fate) {
        let mut ours = Vec::new();
        for payload in payloads {
            match payload {
                // RFC 7296 §1.4.1: the response to the Delete of an IKE SA is empty.
                Payload::Delete(Delete::Ike) => {
                    return (Vec::new(), Fate::Ends(Reason::DeletedByPeer));
                }
                Payload::Delete(Delete::Esp(spis)) => ours.extend(self.answer_delete(spis)),
                _ => {}
            }
        }
        // RFC 7296 §2.21.2: our proof did not convince the initiator.
        if find_notify(payloads, NotifyType::AUTHENTICATION_FAILED).is_some() {
            let reason = Reason::Refused(NotifyType::AUTHENTICATION_FAILED);
            return (Vec::new(), Fate::Ends(reason));
        }
        let answer = (!ours.is_empty()).then_some(Payload::Delete(Delete::Esp(ours)));
        let configuration = self.answer_configuration(payloads);
        (
            answer.into_iter().chain(configuration).collect(),
            Fate::GoesOn,
        )
    }
}
