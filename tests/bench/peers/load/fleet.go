// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"math"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protowire"
)

type fleetState struct {
	Connected int     `json:"connected"`
	Done      int     `json:"done"`
	Refused   int     `json:"refused"`
	Granted   int     `json:"granted"` // since the start
	Told      int     `json:"told_bytes"`
	Latency   spread  `json:"latency_us"`
	Whole     float64 `json:"whole_after"` // seconds from the last `mark` until all were connected; 0: not yet
}

type member struct {
	lock   sync.Mutex
	stream *stream
	asked  map[string]time.Time
}

type squadron struct {
	sync.Mutex
	connected, done, refused, granted, told int
	times                                   []time.Duration
	marked                                  time.Time
	whole                                   float64
}

// Reads commands from stdin: `rate N` (calls per second from now on), `mark` (start counting anew), `state` (print).
// Ends with stdin.
func fleet(args []string) any {
	set := flag.NewFlagSet("fleet", flag.ExitOnError)
	address := set.String("address", "", "of the broker")
	ca := set.String("ca", "", "file of the broker's authority; empty: it has no TLS")
	sidecars := set.Int("sidecars", 1000, "connections, one session each")
	tenants := set.Int("tenants", 1, "calls are of any of the tenants bench/t0, bench/t1, ...")
	ping := set.Duration("ping", 20*time.Second, "without a word from the broker, until a connection pings it")
	pingTimeout := set.Duration("ping-timeout", 5*time.Second, "for the answer")
	held := set.Duration("held", 50*time.Millisecond, "from a grant to its settlement")
	var hello template
	var ends call
	var asks []template
	set.Var(&hello, "hello", "Hello without session_id, in hex")
	set.Var(&ends.observe, "observe", "Observation without call_id, in hex; empty: none is sent")
	set.Var(&ends.settle, "settle", "Settlement without call_id, in hex")
	set.Func("ask", "CallRequest without call_id and tenant, in hex; several go round", func(text string) error {
		var t template
		asks = append(asks, t)
		return asks[len(asks)-1].Set(text)
	})
	check(set.Parse(args))

	q := &squadron{marked: time.Now()}
	alive := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: *ping, Timeout: *pingTimeout})
	dialed := func() *grpc.ClientConn { return dial(*address, *ca, alive) }
	members := make([]*member, *sidecars)
	for n := range members {
		members[n] = &member{asked: map[string]time.Time{}}
		go members[n].stay(dialed, hello, ends, []byte(fmt.Sprintf("fleet-%d-%d", os.Getpid(), n)), *held, q, len(members))
	}
	var rate atomic.Int64
	go call_on(members, asks, *tenants, &rate)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, number, _ := strings.Cut(lines.Text(), " ")
		q.Lock()
		switch word {
		case "rate":
			value, err := strconv.Atoi(number)
			check(err)
			rate.Store(int64(value))
		case "mark":
			q.done, q.refused, q.told, q.times, q.whole, q.marked = 0, 0, 0, nil, 0, time.Now()
		case "state":
			print(fleetState{q.connected, q.done, q.refused, q.granted, q.told, spreadOf(q.times), q.whole})
		default:
			log.Fatalf("no such command: %s", word)
		}
		q.Unlock()
	}
	os.Exit(0)
	return nil
}

// One sidecar: connects within 10 s, and again, with the pauses of a real one (sidecar/broker_client.py), whenever it is
// cut off.
func (m *member) stay(dialed func() *grpc.ClientConn, hello template, ends call, id []byte, held time.Duration, q *squadron, of int) {
	failures := 0
	for {
		connection := dialed()
		ctx, cancel := context.WithCancel(context.Background())
		late := time.AfterFunc(10*time.Second, cancel)
		s, err := open(ctx, connection, hello, id)
		welcome := false
		for err == nil {
			var message []byte
			if message, err = s.receive(); err != nil {
				break
			}
			m.heard(s, message, ends, held, q)
			if !welcome {
				welcome = true
				late.Stop()
				m.lock.Lock()
				m.stream = s
				m.lock.Unlock()
				q.Lock()
				if q.connected++; q.connected == of {
					q.whole = time.Since(q.marked).Seconds()
				}
				q.Unlock()
			}
		}
		m.lock.Lock()
		m.stream = nil
		clear(m.asked)
		m.lock.Unlock()
		failures++
		if welcome {
			failures = 0
			q.Lock()
			q.connected--
			q.Unlock()
		}
		late.Stop()
		cancel()
		connection.Close()
		most := min(5, 0.1*math.Pow(2, float64(min(failures, 10)))) // seconds
		time.Sleep(time.Duration((0.25 + 0.75*rand.Float64()) * most * 1e9))
	}
}

func (m *member) heard(s *stream, message []byte, ends call, held time.Duration, q *squadron) {
	now := time.Now()
	var times []time.Duration
	var granted [][]byte
	refused := 0
	fields(message, func(field protowire.Number, value []byte) {
		switch field {
		case grantField, rejectField, fallbackField:
			id := idOf(value)
			m.lock.Lock()
			if asked, known := m.asked[string(id)]; known {
				times = append(times, now.Sub(asked))
				delete(m.asked, string(id))
			}
			m.lock.Unlock()
			if field == grantField {
				granted = append(granted, id)
			} else {
				refused++
			}
		}
	})
	q.Lock()
	q.done += len(granted)
	q.granted += len(granted)
	q.refused += refused
	q.told += len(message)
	q.times = append(q.times, times...)
	q.Unlock()
	if len(granted) > 0 {
		time.AfterFunc(held, func() {
			var settled []byte
			for _, id := range granted {
				settled = ends.done(id, settled)
			}
			m.lock.Lock()
			defer m.lock.Unlock()
			if m.stream == s {
				s.send(settled) // what cannot be sent is seen by the reader
			}
		})
	}
}

func call_on(members []*member, asks []template, tenants int, rate *atomic.Int64) {
	made := 0
	owed := 0.0
	const step = 500 * time.Microsecond
	for last := time.Now(); ; time.Sleep(step) {
		now, second := time.Now(), float64(rate.Load())
		owed += second * now.Sub(last).Seconds()
		last = now
		for ; owed >= 1; owed-- {
			due := now.Add(-time.Duration((owed - 1) / second * 1e9)) // a load that is late makes no call look quick
			m := members[rand.Intn(len(members))]
			ask := asks[made%len(asks)].of(rand.Intn(tenants)) // each pool is asked by all
			id := callID("f", made)
			made++
			message := ask.with(id, nil, acquireField)
			m.lock.Lock()
			if m.stream != nil {
				m.asked[string(id)] = due
				m.stream.send(message)
			}
			m.lock.Unlock()
		}
	}
}
