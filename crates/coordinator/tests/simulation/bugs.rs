//! Planted bugs: each is one deviation in what surrounds the core, or in how it is used. The simulation must find every one.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];
        }
    };
}

bugs! {
    /// A server that starts again does not know for whom it voted.
    VoteForgotten,
    /// Term and vote are never written.
    HardStateNotWritten,
    /// A write is reported before it is synced.
    ReportedBeforeSync,
    /// What a leader's entries replace stays in the log on disk.
    TruncationSkipped,
    /// A follower acknowledges all that it has, durable or not.
    AcknowledgedBeforeSync,
    /// A follower acknowledges all that it has, whether it agrees with the leader or not.
    AcknowledgedUnverified,
    /// A leader names its last entry as committed.
    CommitIsLast,
    /// A leader that starts again takes its whole log for committed.
    RestartCommitsLog,
    /// Entries are sent without a look at whether they still are those that were meant.
    EntriesOfAnotherLog,
    /// Leaders of earlier terms are obeyed.
    StaleTermAccepted,
    /// A follower does not compare the entry before the first.
    PreviousNotCompared,
    /// A candidate gets votes whatever its log has.
    LogsNotCompared,
    /// The answer to the question before an election is taken for a vote.
    PreVoteTakenForVote,
    /// Each refused vote counts as one.
    RefusalTakenForVote,
    /// A leader answers reads without asking a majority.
    ReadWithoutRound,
    /// A read does not wait until what was committed is applied.
    ReadBeforeApplied,
    /// Every server answers reads, by what it knows to be committed.
    FollowerReads,
    /// Everything that is durable is applied.
    UncommittedApplied,
    /// A write is acknowledged when its leader has appended it.
    AcknowledgedOnAppend,
    /// A write is acknowledged when any entry is applied at its place.
    AcknowledgedByIndex,
    /// A server whose disk was lost votes at once.
    BlankVotes,
    /// The log is purged before the snapshot that covers it is durable.
    PurgedBeforeSnapshot,
    /// A snapshot that was installed does not replace the state.
    SnapshotStateLost,
    /// A snapshot that was installed does not change the membership.
    SnapshotMembershipLost,
    /// A snapshot is named after what is committed, not after what was applied.
    SnapshotNamedTooHigh,
    /// A snapshot that was stored without the log's reset before a crash leaves the log as it was.
    InstallNotRepaired,
    /// A server that starts again applies entries that are in its snapshot.
    AppliedTwice,
    /// A snapshot of a leader of an earlier term is taken.
    StaleSnapshotAccepted,
    /// A leader changes the ensemble to what its own `zoo.cfg` asks for, whatever the others have.
    LeaderDecidesAlone,
    /// A server that starts again knows only the membership of its snapshot.
    MembershipForgotten,
}
