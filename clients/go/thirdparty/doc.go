// Package thirdparty has tests only: clients that nobody of this project wrote talk to the engine.
//
// It is a module of its own, so that the client's module needs nothing but the standard library.
package thirdparty
