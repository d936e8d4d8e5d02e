//! Safeguards that a test takes out, one at a time, to see that a checker misses it. Under `--cfg mutants` the
//! environment's MUTANT names the one that is out; otherwise nothing of this is compiled.

/// Is this safeguard out?
#[cfg(not(mutants))]
#[inline(always)]
pub const fn without(_: &str) -> bool {
    false
}

/// Is this safeguard out?
#[cfg(mutants)]
pub fn without(safeguard: &str) -> bool {
    static MUTANT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    MUTANT.get_or_init(|| std::env::var("MUTANT").unwrap_or_default()) == safeguard
}
