//! A small assembler for classic BPF, in which jumps name labels.
//!
//! An offset that is off by one passes the kernel's checks and lets everything through; so nobody counts instructions here but
//! [`Assembler::finish`], which refuses a label that was never placed, that lies behind its jump, or that is out of reach.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP,
    BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_LEN, BPF_MSH, BPF_RET, BPF_SUB, BPF_W, BPF_X,
};

/// One instruction as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) k: u32,
}

/// A place in a program that jumps can name before it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(usize);

/// A program under construction. "A" is the accumulator, "X" the index register.
#[derive(Default)]
pub(super) struct Assembler {
    insns: Vec<Draft>,
    /// Where each label stands, once placed.
    labels: Vec<Option<usize>>,
}

/// An instruction whose jump, if it has one, still names a label.
struct Draft {
    code: u32,
    k: u32,
    jump: Jump,
}

enum Jump {
    /// Goes on with the next instruction.
    None,
    Always(Label),
    IfTrue(Label),
    IfFalse(Label),
    /// Skips the next instruction if the condition holds.
    OverNextIfTrue,
    /// Skips the next instruction unless the condition holds.
    OverNextIfFalse,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// What is added next stands at `label`.
    pub(super) fn place(&mut self, label: Label) {
        let place = &mut self.labels[label.0];
        assert!(place.is_none(), "a label stands in one place");
        *place = Some(self.insns.len());
    }

    /// A = the 32 bits at `at`.
    pub(super) fn load_word(&mut self, at: u32) {
        self.add(BPF_LD | BPF_W | BPF_ABS, at, Jump::None);
    }

    /// A = the 16 bits at `at`.
    pub(super) fn load_half(&mut self, at: u32) {
        self.add(BPF_LD | BPF_H | BPF_ABS, at, Jump::None);
    }

    /// A = the byte at `at`.
    pub(super) fn load_byte(&mut self, at: u32) {
        self.add(BPF_LD | BPF_B | BPF_ABS, at, Jump::None);
    }

    /// A = the 16 bits at X + `at`.
    pub(super) fn load_half_x(&mut self, at: u32) {
        self.add(BPF_LD | BPF_H | BPF_IND, at, Jump::None);
    }

    /// A = the byte at X + `at`.
    pub(super) fn load_byte_x(&mut self, at: u32) {
        self.add(BPF_LD | BPF_B | BPF_IND, at, Jump::None);
    }

    /// A = the packet's length.
    pub(super) fn load_len(&mut self) {
        self.add(BPF_LD | BPF_W | BPF_LEN, 0, Jump::None);
    }

    /// X = the length of the IPv4 header at `at`, from its own length field. A stays.
    pub(super) fn load_header_len(&mut self, at: u32) {
        self.add(BPF_LDX | BPF_B | BPF_MSH, at, Jump::None);
    }

    /// A = A & `mask`.
    pub(super) fn and(&mut self, mask: u32) {
        self.add(BPF_ALU | BPF_AND | BPF_K, mask, Jump::None);
    }

    /// A = A - X, modulo 2³².
    pub(super) fn subtract_x(&mut self) {
        self.add(BPF_ALU | BPF_SUB | BPF_X, 0, Jump::None);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.add(BPF_JMP | BPF_JA, 0, Jump::Always(to));
    }

    pub(super) fn jump_if_equal(&mut self, value: u32, to: Label) {
        self.add(BPF_JMP | BPF_JEQ | BPF_K, value, Jump::IfTrue(to));
    }

    pub(super) fn jump_unless_equal(&mut self, value: u32, to: Label) {
        self.add(BPF_JMP | BPF_JEQ | BPF_K, value, Jump::IfFalse(to));
    }

    pub(super) fn jump_if_any_bit(&mut self, mask: u32, to: Label) {
        self.add(BPF_JMP | BPF_JSET | BPF_K, mask, Jump::IfTrue(to));
    }

    pub(super) fn jump_if_less(&mut self, than: u32, to: Label) {
        self.add(BPF_JMP | BPF_JGE | BPF_K, than, Jump::IfFalse(to));
    }

    pub(super) fn jump_if_greater(&mut self, than: u32, to: Label) {
        self.add(BPF_JMP | BPF_JGT | BPF_K, than, Jump::IfTrue(to));
    }

    /// Like [`Self::jump_if_equal`], but `to` may be more than 255 instructions away.
    pub(super) fn far_jump_if_equal(&mut self, value: u32, to: Label) {
        self.add(BPF_JMP | BPF_JEQ | BPF_K, value, Jump::OverNextIfFalse);
        self.jump(to);
    }

    /// Ends here with the packet's first `len` bytes taken.
    pub(super) fn pass(&mut self, len: u32) {
        self.add(BPF_RET | BPF_K, len, Jump::None);
    }

    /// Ends here with the packet dropped.
    pub(super) fn drop(&mut self) {
        self.pass(0);
    }

    pub(super) fn drop_if_equal(&mut self, value: u32) {
        self.add(BPF_JMP | BPF_JEQ | BPF_K, value, Jump::OverNextIfFalse);
        self.drop();
    }

    pub(super) fn drop_unless_equal(&mut self, value: u32) {
        self.add(BPF_JMP | BPF_JEQ | BPF_K, value, Jump::OverNextIfTrue);
        self.drop();
    }

    /// The program.
    ///
    /// # Panics
    /// If a jump leads nowhere: a fault in the code that wrote the program, found by any test that builds it.
    pub(super) fn finish(self) -> Vec<Insn> {
        let Self { insns, labels } = self;
        let distance = |from: usize, label: Label| {
            labels[label.0]
                .filter(|&to| to < insns.len())
                .and_then(|to| to.checked_sub(from + 1))
                .expect("a jump leads forward to an instruction")
        };
        let short = |from, label| {
            u8::try_from(distance(from, label)).expect("a conditional jump reaches 255 far")
        };
        let finished = insns.iter().enumerate().map(|(at, draft)| {
            let (mut k, mut if_true, mut if_false) = (draft.k, 0, 0);
            match draft.jump {
                Jump::None => {}
                Jump::Always(to) => {
                    k = u32::try_from(distance(at, to)).expect("a program is short");
                }
                Jump::IfTrue(to) => if_true = short(at, to),
                Jump::IfFalse(to) => if_false = short(at, to),
                Jump::OverNextIfTrue => if_true = 1,
                Jump::OverNextIfFalse => if_false = 1,
            }
            Insn {
                code: u16::try_from(draft.code).expect("codes are small constants"),
                if_true,
                if_false,
                k,
            }
        });
        finished.collect()
    }

    fn add(&mut self, code: u32, k: u32, jump: Jump) {
        self.insns.push(Draft { code, k, jump });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_land_on_their_labels() {
        let mut asm = Assembler::default();
        let (here, there) = (asm.label(), asm.label());
        asm.jump_if_equal(6, there);
        asm.jump_unless_equal(7, here);
        asm.far_jump_if_equal(8, there);
        asm.drop_unless_equal(9);
        asm.drop_if_equal(10);
        asm.place(here);
        asm.pass(1);
        asm.place(there);
        asm.drop();
        let jumps: Vec<_> = asm
            .finish()
            .iter()
            .map(|insn| (insn.if_true, insn.if_false, insn.k))
            .collect();
        assert_eq!(
            jumps,
            [
                (8, 0, 6),
                (0, 6, 7),
                (0, 1, 8),
                (0, 0, 5), // the only unconditional jump: its distance stands in k
                (1, 0, 9),
                (0, 0, 0),
                (0, 1, 10),
                (0, 0, 0),
                (0, 0, 1),
                (0, 0, 0),
            ]
        );
    }

    #[test]
    #[should_panic(expected = "a jump leads forward to an instruction")]
    fn a_label_that_is_never_placed_is_refused() {
        let mut asm = Assembler::default();
        let nowhere = asm.label();
        asm.jump(nowhere);
        asm.finish();
    }

    #[test]
    #[should_panic(expected = "a jump leads forward to an instruction")]
    fn a_jump_behind_the_end_is_refused() {
        let mut asm = Assembler::default();
        let end = asm.label();
        asm.jump(end);
        asm.place(end);
        asm.finish();
    }

    #[test]
    #[should_panic(expected = "a conditional jump reaches 255 far")]
    fn a_conditional_jump_out_of_reach_is_refused() {
        let mut asm = Assembler::default();
        let far = asm.label();
        asm.jump_if_equal(1, far);
        for _ in 0..256 {
            asm.drop();
        }
        asm.place(far);
        asm.drop();
        asm.finish();
    }
}
