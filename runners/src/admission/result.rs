//! Whether a result may be believed: what coordinator, supervisor and CLI ask.

use horus_keys::{Digest, Envelope, Role, Timestamp};

use super::{Refusal, Right, Verifier};
use crate::job::{JobId, Receipt};

impl Verifier {
    /// Checks that a trusted runner says that this job ended in this way, and returns what it says.
    ///
    /// `index` is the position of the receipt in its envelope. `spec` is the SHA-256 of the job's exact text, if the caller knows what was
    /// submitted; whoever does not give it believes the supervisor about what was executed. `output` is the exact JSON text that the supervisor gave.
    ///
    /// # Errors
    /// A malformed or wrongly signed envelope, a signer that is not trusted as runner of that kind, or a receipt that does not match.
    pub fn check_result(
        &self,
        receipt_envelope: &Envelope,
        index: u32,
        job_id: &JobId,
        spec: Option<&Digest>,
        output: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Receipt, Refusal> {
        let signed = self.receipts(receipt_envelope)?;
        let Some(receipt) = signed.receipts.get(index as usize) else {
            let is = signed.receipts.len();
            return Err(Refusal::invalid(format!(
                "the receipt of {job_id} should be number {index} of an envelope that holds {is}"
            )));
        };
        let right = Right::For(Role::Runner, job_id.runner());
        self.require(signed.signer, right, &signed.certificates, now)?;
        if receipt.job_id != *job_id {
            return Err(Refusal::mismatch(format!("the receipt is one of {}, not of {job_id}", receipt.job_id)));
        }
        if spec.is_some_and(|spec| receipt.spec != *spec) {
            return Err(Refusal::mismatch(format!(
                "the runner executed another job under the id {job_id} than the one submitted"
            )));
        }
        if receipt.output != output.map(Digest::of) {
            return Err(Refusal::mismatch(format!(
                "the output of {job_id} is not the one that the runner signed: it was altered on the way"
            )));
        }
        signed.accepted.set();
        Ok(receipt.clone())
    }
}
