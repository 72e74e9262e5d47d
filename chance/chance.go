// Package chance draws the random part of back-offs.
//
// It draws from crypto/rand, which a test can seed (testing/cryptotest), so that a
// simulation of the whole program repeats itself to the millisecond. The global
// functions of math/rand/v2 cannot be seeded. A back-off is rare enough that the
// cost of a system call does not count.
package chance

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"time"
)

// N returns a random duration within [0, n), and 0 where n is not positive.
func N(n time.Duration) time.Duration {
	if n <= 0 {
		return 0
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails: it ends the process instead
	// The high word of the product is the draw scaled to n. Its bias is below n/2^64.
	hi, _ := bits.Mul64(binary.LittleEndian.Uint64(b[:]), uint64(n))
	return time.Duration(hi) //nolint:gosec // below n
}
