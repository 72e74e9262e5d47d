// Package report makes the books: what every customer's credit is worth, now or at any
// moment of the past, what moved it, and what a closed period was.
//
// A database answers with plain sums over its rows, from covering indexes. Few customers
// are such that plain sums do them no justice: those who were deleted, whose history is
// not wholly held, or who have grants that become effective later. They are read apart,
// row by row, and judged here; every report is the plain sums, less what those customers
// have in them, plus what the rules say of them. The rules are in judge.go, once.
package report
