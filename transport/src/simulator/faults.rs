//! What may go wrong in the simulated mesh, decided by a seed.

use std::time::Duration;

/// How the simulated mesh behaves. The default is a mesh without delay and without faults.
///
/// The fate of a message depends on nothing but the seed, its sender, its receiver and its number
/// between those two, so that a run whose calls are in the same order meets the same faults.
/// Probabilities lie between 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Decides which messages are hit.
    pub seed: u64,
    /// How long a packet takes from one node to another. A message takes five of them, there and back
    /// again twice and there: its announcement, its content, its end.
    pub delay: Duration,
    /// What is added to `delay` at most, the same for all packets of one message.
    pub jitter: Duration,
    /// Probability that a single packet is lost. The daemon sends it again 100 ms later. If it was the
    /// acknowledgement of the end, the sender never learns that the message arrived.
    pub packet_loss: f64,
    /// Probability that a whole message, or a whole reply, never comes out at the receiver, although
    /// the sender's daemon holds it for received.
    pub loss: f64,
    /// Probability that a message or a reply comes out twice.
    pub duplication: f64,
    /// Probability that a message or a reply is held up, so that later ones overtake it.
    pub reordering: f64,
    /// How long such a message is held up, at most.
    pub hold: Duration,
    /// Whether the daemon, as the real one, hears no acknowledgement in the first 2 ms of a message. On
    /// a LAN it then goes on only with its next 100 ms tick, or when another of its messages is
    /// acknowledged, so that a request and its reply take 204 ms.
    pub tick: bool,
    /// After which time the daemon gives a message up. It forgets it after twice that time.
    pub give_up: Duration,
}

impl Default for Faults {
    /// No faults, no delay, no tick; a message is given up after 5 minutes.
    fn default() -> Self {
        Self {
            seed: 0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            packet_loss: 0.0,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            hold: Duration::from_millis(50),
            tick: false,
            give_up: Duration::from_secs(300),
        }
    }
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fate {
    pub(super) lost: bool,
    pub(super) twice: bool,
    /// How long it is held up before it sets out.
    pub(super) hold: Duration,
    /// How long each of its packets takes.
    pub(super) delay: Duration,
    packet_loss: f64,
    draws: Draws,
}

impl Fate {
    /// The fate of the `number`th message from node `from` to node `to`.
    pub(super) fn of(faults: &Faults, from: usize, to: usize, number: u64) -> Self {
        let mut draws = Draws(faults.seed).with(from as u64).with(to as u64).with(number);
        let lost = draws.chance(faults.loss);
        let twice = draws.chance(faults.duplication);
        let held = draws.chance(faults.reordering);
        let hold = faults.hold.mul_f64(draws.fraction());
        let delay = faults.delay + faults.jitter.mul_f64(draws.fraction());
        let hold = if held { hold } else { Duration::ZERO };
        Self { lost, twice, hold, delay, packet_loss: faults.packet_loss, draws }
    }

    /// Whether the packet with that number is lost on its way.
    pub(super) fn loses(&self, packet: u64) -> bool {
        self.draws.with(packet).chance(self.packet_loss)
    }
}

/// A stream of numbers that looks random: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Draws(pub(super) u64);

impl Draws {
    /// Another stream, that depends on this one and on `part`.
    pub(super) fn with(self, part: u64) -> Self {
        let mut other = Self(self.0 ^ part.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self(other.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// At least 0, less than 1.
    fn fraction(&mut self) -> f64 {
        // 53 bits are what a double can tell apart.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(seed: u64) -> Faults {
        Faults {
            seed,
            loss: 0.1,
            duplication: 0.2,
            reordering: 0.3,
            packet_loss: 0.4,
            jitter: Duration::from_millis(10),
            ..Faults::default()
        }
    }

    #[test]
    fn fates_come_from_the_seed_and_are_as_frequent_as_told() {
        let fates = |seed| (0..20_000).map(|n| Fate::of(&faults(seed), 0, 1, n)).collect::<Vec<_>>();
        let first = fates(7);
        assert_eq!(first, fates(7));
        assert_ne!(first, fates(8));
        let share = |of: &dyn Fn(&Fate) -> bool| first.iter().filter(|f| of(f)).count() as f64 / 20_000.0;
        assert!((share(&|f| f.lost) - 0.1).abs() < 0.02);
        assert!((share(&|f| f.twice) - 0.2).abs() < 0.02);
        assert!((share(&|f| !f.hold.is_zero()) - 0.3).abs() < 0.02);
        assert!((share(&|f| f.loses(0)) - 0.4).abs() < 0.02);
        assert!((share(&|f| f.loses(0) == f.loses(1)) - 0.52).abs() < 0.02, "packets are lost one by one");
        assert!(first.iter().all(|f| f.delay < Duration::from_millis(10)));
        assert_ne!(Fate::of(&faults(7), 0, 1, 0), Fate::of(&faults(7), 1, 0, 0));
    }

    #[test]
    fn without_faults_nothing_happens_to_a_message() {
        for n in 0..1000 {
            let fate = Fate::of(&Faults::default(), 0, 1, n);
            assert!(!fate.lost && !fate.twice && fate.hold.is_zero() && fate.delay.is_zero() && !fate.loses(n));
        }
    }
}
