//! Attaches to damaged segments and uses them: see `ruins`. Nothing may crash, hang or panic.
#![no_main]

#[path = "../../core/tests/corrupt/exercise.rs"]
mod exercise;
#[path = "../../core/tests/corrupt/looks.rs"]
mod looks;
#[path = "../../core/tests/corrupt/ruins.rs"]
mod ruins;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static IMAGE: LazyLock<ruins::Image> = LazyLock::new(ruins::Image::new);

fuzz_target!(|input: &[u8]| {
    IMAGE.attach_and_use(input);
});
