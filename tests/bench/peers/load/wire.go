// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// Messages of sluicegate.v1 are put together from encoded templates, which the benchmark's Python side makes, and a
// call_id, which is field 1 of all of them.
const (
	helloField    = 1 // of SessionRequest
	acquireField  = 2
	observedField = 4
	settleField   = 5
	welcomeField  = 1 // of SessionResponse
	grantField    = 2
	fallbackField = 3
	rejectField   = 4
	retryField    = 5
	tenantField   = 6 // of CallRequest
)

type template []byte

func (t *template) String() string { return hex.EncodeToString(*t) }

func (t *template) Set(text string) (err error) {
	*t, err = hex.DecodeString(text)
	return err
}

// Appends `field` holding the template with `id` in it.
func (t template) with(id, message []byte, field protowire.Number) []byte {
	message = protowire.AppendTag(message, field, protowire.BytesType)
	message = protowire.AppendVarint(message, uint64(len(t)+len(id)+1+protowire.SizeVarint(uint64(len(id)))))
	message = protowire.AppendTag(message, 1, protowire.BytesType)
	message = protowire.AppendBytes(message, id)
	return append(message, t...)
}

// A CallRequest of tenant bench/t<n>.
func (t template) of(n int) template {
	tenant := fmt.Appendf(nil, "bench/t%d", n)
	return protowire.AppendBytes(protowire.AppendTag(append([]byte(nil), t...), tenantField, protowire.BytesType), tenant)
}

type call struct{ ask, observe, settle template }

// What `id` owes once it is granted: what its response said, and its end.
func (c call) done(id, message []byte) []byte {
	if len(c.observe) > 0 {
		message = c.observe.with(id, message, observedField)
	}
	return c.settle.with(id, message, settleField)
}

// Calls `found` with each top field of a message; fails on what is no message.
func fields(message []byte, found func(field protowire.Number, value []byte)) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			panic("not a message")
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(number, kind, message)
		if size < 0 {
			panic("not a message")
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			found(number, value)
		}
		message = message[size:]
	}
}

func idOf(message []byte) []byte {
	_, _, n := protowire.ConsumeTag(message)
	id, _ := protowire.ConsumeBytes(message[n:])
	return id
}

// Passes bytes through.
type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// `ca`: the file of the authority of a server whose certificate is for localhost; empty: it has no TLS.
func dial(address, ca string, options ...grpc.DialOption) *grpc.ClientConn {
	secure := insecure.NewCredentials()
	if ca != "" {
		var err error
		secure, err = credentials.NewClientTLSFromFile(ca, "localhost")
		check(err)
	}
	options = append(options, grpc.WithTransportCredentials(secure))
	connection, err := grpc.NewClient(address, options...)
	check(err)
	return connection
}

type stream struct{ grpc.ClientStream }

func open(ctx context.Context, connection *grpc.ClientConn, hello template, id []byte) (*stream, error) {
	description := &grpc.StreamDesc{StreamName: "Session", ClientStreams: true, ServerStreams: true}
	s, err := connection.NewStream(ctx, description, "/sluicegate.v1.BudgetService/Session", grpc.ForceCodec(raw{}))
	if err != nil {
		return nil, err
	}
	opened := &stream{s}
	return opened, opened.send(hello.with(id, nil, helloField))
}

func (s *stream) send(message []byte) error { return s.SendMsg(&message) }

func (s *stream) receive() (message []byte, err error) {
	err = s.RecvMsg(&message)
	return message, err
}

// As long as the sidecar's: 32 characters.
func callID(owner string, number int) []byte {
	return fmt.Appendf(nil, "%s%0*d", owner, 32-len(owner), number)
}
