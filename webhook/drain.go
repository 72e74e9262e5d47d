package webhook

import "sync"

// drainer counts the requests in progress. Once shut, it admits no more.
type drainer struct {
	mu      sync.Mutex
	closed  bool
	inside  int
	drained chan struct{} // closed when it is shut and nobody is inside
}

func (d *drainer) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.inside++
	return true
}

func (d *drainer) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if d.closed && d.inside == 0 {
		close(d.drained)
	}
}

func (d *drainer) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	if d.inside == 0 {
		close(d.drained)
	}
}

func (d *drainer) isShut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}
