//! The protocols between the shell's threads, with every order of their steps tried: all orders where they can be counted, random ones
//! and those that need few switches of threads where they cannot. The files under test are the product's own, compiled with the model
//! checker's primitives in place of the real ones.
//!
//! The model is sequentially consistent: which orderings the atomics of the guard need is not tried here.

mod primitives;

macro_rules! product {
    ($($file:literal $name:ident),*) => {
        $(
            #[path = $file]
            #[expect(unreachable_pub, reason = "the product's file, in a private module")]
            mod $name;
        )*
    };
}
product!("../../src/shell/agenda.rs" agenda, "../../src/shell/guard.rs" guard);
product!("../../src/shell/outbox.rs" outbox, "../../src/shell/wakeups.rs" wakeups);

mod deadlines;
mod notification;
mod rounds;

/// Orders that are tried of each kind.
const ORDERS: usize = 3_000;
/// Switches of threads at bad moments that a fault may need to show.
const SWITCHES: usize = 3;

/// Random orders, and those with few switches.
fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), ORDERS);
    shuttle::check_pct(test, ORDERS, SWITCHES);
}
