//! Planted bugs: each is one deviation, in what surrounds the cores or in how they are used. The simulation must find every one.

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
    /// A follower keeps what its leader does not have, and goes on behind it.
    TruncationSkipped,
    /// A follower cuts at its high watermark when it begins to follow, and compares no epochs (KIP-101).
    TruncatedToHighWatermark,
    /// A follower cuts only to the leader's answer, whatever its own epochs are (KIP-279).
    LocalEpochsIgnored,
    /// A leader does not compare the epoch of a fetch's last record with its own log.
    FetchEpochNotCompared,
    /// A leader answers about every epoch with the end of its log.
    EndOfEpochIsEndOfLog,
    /// The epoch cache is not cut with the log.
    EpochCacheNotTruncated,
    /// A follower stores records under its own leader epoch instead of theirs.
    RecordEpochsRewritten,
    /// A broker follows a decision of an earlier leader epoch.
    StaleLeaderEpochAccepted,
    /// A broker obeys a controller that has been replaced.
    StaleControllerAccepted,
    /// A broker that has begun again obeys what was meant for its earlier life.
    ObeysBeforeItRegistered,
    /// Late news of which brokers live take the place of newer ones.
    OlderMetadataAccepted,
    /// A follower takes the answer to an earlier fetch.
    LateFetchAnswerAccepted,
    /// A leader counts followers that are being added only when the controller has confirmed them.
    PendingIsrNotCounted,
    /// A leader drops a proposal whose answer is late.
    ProposalDroppedOnTimeout,
    /// A leader counts a shrunk ISR before the controller has confirmed it.
    ShrinkBeforeConfirmed,
    /// A leader does not wait for one member of the ISR.
    IsrMemberNotWaitedFor,
    /// A follower joins the ISR before it has what earlier leaders had.
    JoinsBeforeCaughtUp,
    /// After a start the high watermark is the end of the log.
    HighWatermarkRestoredTooHigh,
    /// A follower takes its whole log for committed.
    FollowerCommitsItsLog,
    /// acks=all is answered when the leader has appended.
    AcknowledgedOnAppend,
    /// The high watermark of a later leadership acknowledges what was appended in an earlier one.
    AcknowledgedByLaterLeadership,
    /// min.insync.replicas is not compared.
    MinIsrIgnored,
    /// Consumers read up to the end of the log.
    UncommittedServed,
    /// States are written whatever version they have, and not read again after a write of which nothing was heard.
    VersionNotCompared,
    /// States are written by whoever was controller once.
    ControllerEpochNotChecked,
    /// A new controller has the epoch of the one before.
    ControllerEpochNotRaised,
    /// The controller takes a refused write for a written one.
    RefusedWriteTakenForWritten,
    /// A replica outside of the ISR is elected when no member is alive.
    UncleanElection,
    /// The last replica leaves the ISR when it dies, and any replica may begin anew.
    IsrEmptied,
    /// A new leader has the epoch of the one before.
    LeaderEpochNotRaised,
    /// A proposal's broker epochs are not compared with the registrations.
    BrokerEpochNotJudged,
    /// A broker that died and came back between two looks of the controller keeps its place.
    BouncedBrokerKeepsItsPlace,
    /// A broker that registers while states count on its earlier life takes the place of that.
    NewBrokerTakesItsOldPlace,
    /// A controller that begins does not see that brokers came back after states were written.
    BouncedBrokerNotSeenAtLoad,
    /// A broker that died registers before it has left the ISRs.
    RegistersBeforeItLeft,
    /// A reassignment ends before the new replicas are in sync.
    ReassignedBeforeInSync,
    /// A leader leads again after a start without being told.
    LeadsAgainUntold,
    /// A controller that begins goes on with what it knew when it was controller before.
    StatesNotLoaded,
    /// A controller gives up telling a broker after one attempt.
    DecisionSentOnce,
}
