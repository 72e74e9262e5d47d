// Package backoff has what every caller of something that may be away needs: a sleep that
// a context ends, the random part of a pause, and Retry-After.
//
// Random numbers come from crypto/rand, which a test can seed (testing/cryptotest), so
// that a simulation of the whole program repeats itself to the millisecond. The global
// functions of math/rand/v2 cannot be seeded. A back-off is rare enough that the cost of
// a system call does not count.
package backoff

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Sleep waits for d, or until ctx ends, and then returns the context's error.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return ctx.Err() // both may have happened, and select chooses at random
	}
}

// N returns a random duration within [0, n), and 0 where n is not positive.
func N(n time.Duration) time.Duration {
	if n <= 0 {
		return 0
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails: it ends the process instead
	// The high word of the product is the draw scaled to n. Its bias is below n/2^64.
	hi, _ := bits.Mul64(binary.LittleEndian.Uint64(b[:]), uint64(n))
	return time.Duration(hi) // #nosec G115 -- below n
}

// Jitter returns the pause after so many failed attempts: base and a random part that
// doubles with each attempt, of at most limit. Callers that failed together do not come
// back together.
func Jitter(base, limit time.Duration, attempt int) time.Duration {
	top := limit
	if attempt < 30 && base<<attempt < limit {
		top = base << attempt
	}
	return base + N(top)
}

// RetryAfter reads the value of a Retry-After header, which is in seconds or a date
// (RFC 9110, 10.2.3). It returns 0 for a time that is over and for anything else. The
// caller bounds it: it comes from outside.
func RetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second // at most 31 bits
	}
	if at, err := http.ParseTime(value); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}
