//go:build !failpoints || !unix

package failpoint

// Hit does nothing in a usual build, and the compiler leaves nothing of it.
func Hit(string) {}
