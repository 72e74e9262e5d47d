//go:build !linux

package redistest

import "syscall"

// childAttr asks for nothing special: only Linux can tie a child to its parent.
func childAttr() *syscall.SysProcAttr { return nil }
