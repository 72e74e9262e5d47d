package webhook

import (
	"errors"
	"io"
	"sync/atomic"
)

// maxBody is the most that a body may have, in bytes.
const maxBody = 1 << 20

// firstRead is what a body gets before its first byte has come.
const firstRead = 1 << 10

var (
	errTooLarge = errors.New("the body is too large")
	errNoMemory = errors.New("no memory left for bodies")
)

// bodyMemory bounds what all bodies together hold. A body's share grows with
// what has arrived of it, not with what its Content-Length claims, so that
// stalled senders hold next to nothing.
type bodyMemory struct {
	limit int64
	held  atomic.Int64
}

// read reads src to its end. length is the Content-Length, -1 when unknown. The
// bytes are to be released, error or not.
func (m *bodyMemory) read(src io.Reader, length int64) ([]byte, error) {
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			grown, err := m.grow(buf, length)
			if err != nil {
				return buf, err
			}
			buf = grown
		}
		n, err := src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > maxBody:
			return buf, errTooLarge
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return buf, err
		}
	}
}

// grow moves buf to more room: eight times as much, or just enough where the
// length is known. The byte too many lets read see the end, or the excess.
func (m *bodyMemory) grow(buf []byte, length int64) ([]byte, error) {
	size := max(firstRead, 8*int64(cap(buf)))
	if length >= int64(cap(buf)) {
		size = min(size, length+1)
	}
	size = min(size, maxBody+1)
	if m.held.Add(size) > m.limit {
		m.held.Add(-size)
		return nil, errNoMemory
	}
	grown := append(make([]byte, 0, size), buf...)
	m.held.Add(-int64(cap(buf)))
	return grown, nil
}

// release gives back the share of a body that is not used any more.
func (m *bodyMemory) release(buf []byte) { m.held.Add(-int64(cap(buf))) }
