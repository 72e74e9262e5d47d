//go:build unix && !linux

package pgtest

import "syscall"

// childAttr asks for no more than the user: only Linux can tie a child to its
// parent.
func childAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred}
}
