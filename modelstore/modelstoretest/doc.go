// Package modelstoretest is a registry in memory, for tests of pulls and pushes.
//
//	reg := modelstoretest.NewRegistry()
//	reg.AddModel("library/x:latest", weights)
//	reg.On("GET", "/blobs/", 1, modelstoretest.CutAfter(1000))
//
// It is an http.Handler, which httptest.NewServer puts on a port. A Network has hosts
// by name and no sockets: in a bubble of testing/synctest it waits for no clock.
//
// A Storm is many clients that change the same names of a store at once, until it is
// killed; a History says what must be there then, and ReadFolder what is.
package modelstoretest
