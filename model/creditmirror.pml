/*
 * The protocol of creditmirror for one customer: how an acknowledged event comes
 * to be answered, whatever dies meanwhile. docs/model.md says which Go function
 * each step stands for, and what is left out.
 *
 * Two workers, one customer, EVENTS events. An event adds a row to the ledger or
 * edits the customer. A piece of a history holds one row, so that two new rows
 * make a walk. `make model` checks the protocol, and that each weakening of it,
 * switched on by a -D, is caught.
 */
#ifndef EVENTS
#define EVENTS 3
#endif
#ifndef CRASHES
#define CRASHES 1	/* kill -9 of a worker, a receiver or the healing */
#endif
#ifndef PAUSES
#define PAUSES 1	/* a lease runs out under a worker that lives */
#endif
#ifndef FLUSHES
#define FLUSHES 1	/* Redis loses everything */
#endif
#ifndef REWINDS
#define REWINDS 0	/* Redis is again what it was: an older backup, a replica that lagged */
#endif
#ifndef PASS
#define PASS 0		/* the pass over the inbox and the open walks, every 15 s */
#endif
#ifndef INBOX
#define INBOX 1		/* 0: CREDITMIRROR_INBOX=off; then Redis loses nothing */
#endif

#define ALL      ((1 << EVENTS) - 1)
#define bit(e)   (1 << (e))
#define in(e, s) (((s) >> (e)) & 1)

#ifdef REMARK_SKIPS_QUEUED
#define REMARKS (r.gen == 0)	/* what a rewound Redis says of its claims is believed */
#elif defined(NO_REMARK)
#define REMARKS 0
#elif defined(NO_REMARK)
#define REMARKS 0
#else
#define REMARKS 1
#endif
#ifdef HEAL_STAMPS_BLINDLY
#define STAMPS_BLINDLY 1
#else
#define STAMPS_BLINDLY 0
#endif

/* --- Stripe ------------------------------------------------------------------ */
byte happened;			/* events so far */
byte rows, ver;			/* the ledger's length, the customer's version */
byte evRow[EVENTS], evVer[EVENTS];	/* what a state must hold to be as new as the event */
byte rowEvent[EVENTS + 1];	/* the event that added a row, counted from 1; 0: none */
byte young;			/* the newest event, while a reply may lag behind it */

/* --- the mirror's database ---------------------------------------------------- */
byte recorded, answered;	/* stripe_events: the rows, those without pending scopes */
byte epochOf;			/* sync_state.epoch: who raised it last (1, 2; 0 nobody) */
byte held;			/* customer_balance_transactions, a bit a row */
byte completeTo;		/* rows up to here are placed */
byte walkCursor, walkTop;	/* 0: no walk is open */
byte view;			/* the version of the customer that is held */

/* --- Redis --------------------------------------------------------------------- */
typedef Redis {
	byte gen;		/* 0: clean */
	bit ready, lease;
	byte claim, claimGen;	/* id of the claim that owns the target; the generation it saw */
	byte refs		/* events that marks named; only without the inbox, which knows them all */
};
Redis r, snapshot;
bit haveSnapshot;
bit lost;			/* the incarnation in Redis is not the one in the database */
bit stampedAnew;		/* Redis carries the id that this healing gave it */

/* --- what the outside sees ------------------------------------------------------ */
byte acked;			/* events that got their 200 */
byte crashes = CRASHES, pauses = PAUSES, flushes = FLUSHES, rewinds = REWINDS;

typedef Worker {
	byte claim, claimGen, refs;	/* the claim; 0: idle */
	byte seq;			/* events that waited when the epoch was raised */
	byte gotRows, gotVer, gotYoung;	/* the reply, and what was young when it was asked for */
	byte next			/* what becomes of the claim */
};
Worker w[3];				/* 1 and 2 */
#define FENCED 1
#define MORE   2
#define AGAIN  3
#define JOINED 4

#define covered(e) (evRow[e] <= completeTo && evVer[e] <= view)
#define waits(e)   (r.gen != 0 || lost)
#if INBOX
#define kept(e)    (in(e, answered) -> covered(e) : waits(e))
#else
#define kept(e)    (covered(e) || waits(e))
#endif

/* mark.lua */
inline mark(es) {
	r.gen++;
#if !INBOX
	r.refs = r.refs | (es);
#endif
	if
	:: !r.lease -> r.ready = 1
	:: else
	fi
}

/* --- Stripe's deliveries and the receiver ---------------------------------------- */
proctype Event(byte e) {
	atomic {
		happened == e ->
		happened++;
		if
		:: rows++; rowEvent[rows] = e + 1
		:: ver++
		fi;
		evRow[e] = rows; evVer[e] = ver;
		young = bit(e)
	}
deliver:
#ifdef MARK_BEFORE_INBOX
	atomic { true; mark(bit(e)) }
#endif
#if INBOX
	atomic {					/* RecordEvents */
		recorded = recorded | bit(e);
		if
		:: in(e, answered) -> acked = acked | bit(e); goto done	/* ReceiptApplied */
		:: else
		fi
	}
#endif
	if
	:: atomic { crashes > 0 -> crashes--; goto deliver }	/* Stripe delivers again */
	:: atomic {					/* Queue.Mark; the 200 follows, and counts at once */
#ifndef MARK_BEFORE_INBOX
		mark(bit(e));
#endif
		acked = acked | bit(e)
	}
	fi;
done:
	skip
}

/* Time passes: no reply lags behind the event any more. */
proctype Age() {
end:	do
	:: young != 0 -> young = 0
	od
}

/* --- a worker -------------------------------------------------------------------- */
inline forget(me) {
	w[me].claim = 0; w[me].claimGen = 0; w[me].refs = 0; w[me].seq = 0;
	w[me].gotRows = 0; w[me].gotVer = 0; w[me].gotYoung = 0; w[me].next = 0;
	n = 0; top = 0;
	if
	:: epochOf == me -> epochOf = 0		/* an epoch that nobody will use again */
	:: else
	fi
}

#define used(id) (w[1].claim == id || w[2].claim == id || r.claim == id || (haveSnapshot && snapshot.claim == id))

/* A token of 128 random bits is one that nobody remembers. */
inline fresh(id) {
	id = 1;
#ifndef CLAIM_ID_REPEATS
	do
	:: used(id) -> id++
	:: else -> break
	od
#endif
}

inline beginSync(me) {
	epochOf = me;
	w[me].seq = recorded & ~answered
}

/* Stripe answers. A reply that lags hides the row of an event that is young; the
 * customer in it is as of now, since nothing could tell that it is not. */
inline readStripe(me) {
	w[me].gotRows = rows; w[me].gotVer = ver; w[me].gotYoung = young;
	if
	:: rows > 0 && bit(rowEvent[rows] - 1) == young -> w[me].gotRows--
	:: true
	fi
}

/* The joining commit answers what waited when the epoch was raised and what the
 * claim names. A young event is left to the next look unless a row as new shows
 * that the reply does not lag behind it. */
inline answer(me) {
	n = 0;
	top = rowEvent[w[me].gotRows];
	do
	:: n < EVENTS ->
		if
		:: in(n, (w[me].seq | w[me].refs)) && !in(n, answered) ->
			if
#ifndef ANSWER_WITHOUT_DOUBT
			:: in(n, w[me].gotYoung) && n + 1 > top -> w[me].next = AGAIN
#endif
			:: else -> answered = answered | bit(n)
			fi
		:: else
		fi;
		n++
	:: else -> break
	od;
	n = 0; top = 0
}

/* ApplyBalance: the fence, the guard against rewritten ledgers, one piece. */
inline commitPiece(me) {
	n = w[me].gotRows;
	w[me].next = JOINED;
	if
#ifndef NO_FENCE
	:: epochOf != me -> w[me].next = FENCED
#endif
	:: else ->
		if
		:: n < completeTo || n < walkTop ->
			w[me].next = AGAIN				/* ErrLedgerRewritten: a held row is not listed */
		:: else ->
			assert(w[me].gotVer >= view);			/* old never overwrites new */
			view = w[me].gotVer;
			if
			:: walkCursor == 0 && n <= completeTo -> skip	/* nothing new */
			:: walkCursor == 0 && n == completeTo + 1 ->	/* one new row, which joins */
				held = held | bit(n - 1); completeTo = n
			:: (walkCursor == 0 && n > completeTo + 1) || (walkCursor > 0 && n > walkTop + 1) ->
				held = held | bit(n - 1);			/* the walk begins (again) at the head */
				walkCursor = n; walkTop = n; w[me].next = MORE
			:: walkCursor > 0 && n <= walkTop + 1 ->	/* join the walk, go on below it */
				held = held | bit(n - 1) | bit(walkCursor - 2);
				if
				:: walkCursor - 1 == completeTo + 1 -> completeTo = n; walkCursor = 0; walkTop = 0
				:: else -> walkCursor = walkCursor - 1; walkTop = n; w[me].next = MORE
				fi
			fi;
			if
#ifndef ANSWER_AT_A_PIECE
			:: w[me].next == MORE -> skip
#endif
			:: else -> answer(me)
			fi
		fi
	fi;
	n = 0
}

/* done.lua, fail.lua */
inline finish(me) {
	if
	:: r.claim != w[me].claim -> skip		/* no longer owned */
	:: else ->
		r.lease = 0; r.claim = 0; r.claimGen = 0;
		if
#ifndef DONE_CLEARS_NEWER
		:: w[me].next != JOINED || r.gen != w[me].claimGen -> r.ready = (r.gen > 0)
#else
		:: w[me].next != JOINED -> r.ready = (r.gen > 0)
#endif
		:: else -> r.gen = 0; r.refs = 0; r.ready = 0
		fi;
		if
		:: r.gen == 0 -> r.refs = 0
		:: else
		fi
	fi
}

#define dies atomic { crashes > 0 -> crashes--; forget(me); goto idle }

proctype Work(byte me) {
	byte n, top;
idle:
end:	atomic {						/* claim.lua */
		/* idle workers are alike: the first one goes first */
		r.ready && r.gen > 0 && (me == 1 || w[1].claim != 0) ->
		fresh(n);
		w[me].claim = n; w[me].claimGen = r.gen; w[me].refs = r.refs;
		r.claim = n; r.claimGen = r.gen; r.lease = 1; r.ready = 0; n = 0
	}
#ifndef EPOCH_AFTER_READ
	if
	:: dies
	:: atomic { true; beginSync(me) }
	fi;
	if
	:: dies
	:: atomic { true; readStripe(me) }
	fi;
#else
	if
	:: dies
	:: atomic { true; readStripe(me) }
	fi;
	if
	:: dies
	:: atomic { true; beginSync(me) }
	fi;
#endif
	if
	:: dies
	:: atomic { true; commitPiece(me) }
	fi;
	if
	:: dies
	:: atomic { true; finish(me); forget(me); goto idle }
	fi
}

/* --- upkeep ------------------------------------------------------------------------ */
#define alive(id) (w[1].claim == id || w[2].claim == id)

/* reap.lua, repair.lua; and the pass, which finds what nothing else did. */
proctype Upkeep() {
end:	do
	:: atomic { r.lease && !alive(r.claim) -> r.lease = 0; r.claim = 0; r.claimGen = 0; r.ready = (r.gen > 0) }
	:: atomic { r.lease && alive(r.claim) && pauses > 0 -> pauses--; r.lease = 0; r.claim = 0; r.claimGen = 0; r.ready = (r.gen > 0) }
	:: atomic { r.gen > 0 && !r.ready && !r.lease -> r.ready = 1 }
#if PASS
	:: atomic { !lost && r.gen == 0 && ((recorded & ~answered) != 0 || walkCursor != 0) -> r.gen = 1; r.ready = 1 }
#endif
	od
}

#if INBOX && (FLUSHES || REWINDS)
inline clear(x) { x.gen = 0; x.ready = 0; x.lease = 0; x.claim = 0; x.claimGen = 0; x.refs = 0 }
inline copy(to, from) {
	to.gen = from.gen; to.ready = from.ready; to.lease = from.lease;
	to.claim = from.claim; to.claimGen = from.claimGen; to.refs = from.refs
}

/* Redis forgets: all, or what came after the snapshot. */
proctype Loss() {
end:	do
	:: atomic { flushes > 0 -> flushes--; clear(r); lost = 1; stampedAnew = 0 }
	:: atomic { rewinds > 0 && !haveSnapshot && !lost -> haveSnapshot = 1; copy(snapshot, r) }
	:: atomic { haveSnapshot -> rewinds--; copy(r, snapshot); clear(snapshot); haveSnapshot = 0; lost = 1; stampedAnew = 0 }
	od
}

/* Runner.heal. It begins anew after a crash, since only its last step ends the loss. */
proctype Heal() {
begin:
end:	atomic { lost -> stampedAnew = 1 }			/* RewindDetector.Begin */
	if
	:: atomic { crashes > 0 -> crashes--; stampedAnew = 0; goto begin }
	:: atomic {						/* remarkLost */
		if
		:: (recorded & ~answered) != 0 && REMARKS -> mark(recorded & ~answered)
		:: else
		fi
	}
	fi;
	atomic {						/* remarkUnfinished */
		if
		:: walkCursor != 0 && REMARKS -> mark(0)
		:: else
		fi
	}
	if
	:: atomic { crashes > 0 -> crashes--; stampedAnew = 0; goto begin }
	:: atomic { stampedAnew || STAMPS_BLINDLY -> lost = 0; stampedAnew = 0; goto begin }	/* Heal */
	:: atomic { !stampedAnew && !STAMPS_BLINDLY -> goto begin }	/* errLostAgain */
	fi
}
#endif

/* --- what must hold ------------------------------------------------------------------ */
/* An acknowledged event is answered truly, or waits. */
#define forgotten(e) (in(e, acked) && !kept(e))
/* What is answered is held. */
#define untrue(e)    (in(e, answered) && !covered(e))
/* A ledger without an open walk holds every row up to its end. */
#define incomplete   (walkCursor == 0 && held != bit(completeTo) - 1)

proctype Check() {
end:	if
	:: forgotten(0) || forgotten(1) || forgotten(EVENTS - 1) -> assert(false)	/* forgotten */
	:: untrue(0) || untrue(1) || untrue(EVENTS - 1) -> assert(false)		/* answered untruly */
	:: incomplete -> assert(false)							/* called complete */
	fi
}

init {
	byte e;
	atomic {
		do
		:: e < EVENTS -> run Event(e); e++
		:: else -> break
		od;
		run Age(); run Work(1); run Work(2); run Upkeep();
#if INBOX && (FLUSHES || REWINDS)
		run Loss(); run Heal();
#endif
		run Check();
		e = 0
	}
}

#define equal (acked == ALL && completeTo == rows && view == ver && walkCursor == 0 && r.gen == 0)
#ifdef LIVENESS
ltl becomesEqual { <>[] equal }
#endif
