package demo

import "testing"

// Between the choice of a port and its use nobody can take it: two demos that
// start together get along.
func TestReservedPortsStayOurs(t *testing.T) {
	t.Parallel()
	a, b := reserved{}, reserved{}
	defer b.release()
	first, err := a.reserve(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.reserve(t.Context(), first)
	if err != nil || other == first {
		t.Fatalf("%q beside %q, %v", other, first, err)
	}
	l, err := a.take(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), first); err == nil {
		t.Error("the port was given up")
	}
	a.release()
	if err := l.Close(); err != nil {
		t.Errorf("what was taken was closed: %v", err)
	}
	if l, err = a.take(t.Context(), first); err != nil { // not reserved any more
		t.Fatal(err)
	}
	_ = l.Close()
}
