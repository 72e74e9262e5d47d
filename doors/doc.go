// Package doors protects the listeners of this program: it limits connections in number
// and time, serves TLS, and determines the real address of a request.
package doors
