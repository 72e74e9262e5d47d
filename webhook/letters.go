package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

// maxLetters is how many unreadable bodies may wait to be kept; one more is
// overload. They should never come at all.
const maxLetters = 16

// letterBox keeps unreadable events, one at a time and apart from the intake:
// they must not hold up the readable ones.
type letterBox struct {
	store   DeadLetters
	timeout time.Duration
	waiting chan *letter
	log     *zap.Logger
}

type letter struct {
	mirror.DeadLetter
	verdict chan verdict // has room for one
	gone    atomic.Bool
}

// deadLetter makes the letter of a body. The same body always makes the same
// letter; the reason has no word of the body.
func deadLetter(body []byte, now time.Time) mirror.DeadLetter {
	sum := sha256.Sum256(body)
	reason := "the event's envelope is incomplete"
	switch {
	case !utf8.Valid(body):
		reason = "the event is not valid UTF-8"
	case !json.Valid(body):
		reason = "the event is not valid JSON"
	}
	return mirror.DeadLetter{
		ID:            "dead_" + hex.EncodeToString(sum[:])[:32],
		Reason:        reason,
		Attempts:      1,
		Payload:       bytes.Clone(body), // the body's memory is used no longer than its request
		FirstFailedAt: now,
		LastFailedAt:  now,
	}
}

// submit waits until the letter is kept, but no longer than the timeout.
func (b *letterBox) submit(d mirror.DeadLetter) verdict {
	l := &letter{DeadLetter: d, verdict: make(chan verdict, 1)}
	select {
	case b.waiting <- l:
	default:
		return verdict{answerOverload, errFull}
	}
	timer := time.NewTimer(b.timeout)
	defer timer.Stop()
	select {
	case v := <-l.verdict:
		return v
	case <-timer.C:
		l.gone.Store(true)
		return verdict{answerTimeout, errTimeout}
	}
}

// run keeps letters until ctx ends; those that wait then are refused.
func (b *letterBox) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for {
				select {
				case l := <-b.waiting:
					l.verdict <- verdict{answerStopping, errStopping}
				default:
					return
				}
			}
		case l := <-b.waiting:
			if !l.gone.Load() {
				l.verdict <- b.save(ctx, l.DeadLetter)
			}
		}
	}
}

func (b *letterBox) save(ctx context.Context, d mirror.DeadLetter) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			v = panicked(b.log, p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	failpoint.Hit("receiver.letter")
	if err := b.store.SaveDeadLetter(ctx, d); err != nil {
		return verdict{answerDeadLetterError, fmt.Errorf("save dead letter %s: %w", d.ID, err)}
	}
	return verdict{answer: answerUnreadable}
}
