// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	envoy "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

type decisions struct {
	Done    int     `json:"done"`
	Seconds float64 `json:"seconds"`
	Latency spread  `json:"latency_us"`
}

// Each stream keeps -outstanding calls; the answer to n of them is settled in one message with n new ones.
func session(args []string) any {
	set := flag.NewFlagSet("session", flag.ExitOnError)
	address := set.String("address", "", "of the broker")
	streams := set.Int("streams", 1, "connections, one stream each")
	outstanding := set.Int("outstanding", 1, "calls of a stream that wait for their grant")
	seconds := set.Float64("seconds", 3, "how long")
	var hello template
	var c call
	set.Var(&hello, "hello", "Hello without session_id, in hex")
	set.Var(&c.ask, "ask", "CallRequest without call_id, in hex")
	set.Var(&c.observe, "observe", "Observation without call_id, in hex; empty: none is sent")
	set.Var(&c.settle, "settle", "Settlement without call_id, in hex")
	check(set.Parse(args))

	var all sync.WaitGroup
	done := make([]int, *streams)
	times := make([][]time.Duration, *streams)
	begun := time.Now()
	end := begun.Add(time.Duration(*seconds * 1e9))
	for n := range *streams {
		all.Add(1)
		go func() {
			defer all.Done()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			owner := fmt.Sprintf("%d-%d-", os.Getpid(), n)
			s, err := open(ctx, dial(*address), hello, []byte(owner))
			check(err)
			var message []byte
			next := 0
			ask := func(count int) {
				for range count {
					message = c.ask.with(callID(owner, next), message, acquireField)
					next++
				}
			}
			ask(*outstanding)
			var settled []byte
			for {
				asked := time.Now()
				check(s.send(message))
				for granted := 0; granted == 0; {
					answer, err := s.receive()
					check(err)
					settled = settled[:0]
					fields(answer, func(field protowire.Number, value []byte) {
						switch field {
						case grantField:
							settled = c.done(idOf(value), settled)
							granted++
						case rejectField, fallbackField, retryField:
							log.Fatalf("a call was not granted: %q", value)
						}
					})
					if granted > 0 {
						now := time.Now()
						done[n] += granted
						times[n] = append(times[n], now.Sub(asked))
						message = append([]byte(nil), settled...)
						if now.After(end) {
							check(s.send(message))
							check(s.CloseSend())
							return
						}
						ask(granted)
					}
				}
			}
		}()
	}
	all.Wait()
	total := 0
	for _, count := range done {
		total += count
	}
	return decisions{total, time.Since(begun).Seconds(), spreadOf(times...)}
}

func ratelimit(args []string) any {
	set := flag.NewFlagSet("ratelimit", flag.ExitOnError)
	address := set.String("address", "", "of the service")
	connections := set.Int("connections", 1, "connections")
	outstanding := set.Int("outstanding", 1, "calls under way on each connection")
	seconds := set.Float64("seconds", 3, "how long")
	check(set.Parse(args))

	var all sync.WaitGroup
	var lock sync.Mutex
	var times [][]time.Duration
	begun := time.Now()
	end := begun.Add(time.Duration(*seconds * 1e9))
	for n := range *connections {
		client := rls.NewRateLimitServiceClient(dial(*address))
		for m := range *outstanding {
			all.Add(1)
			go func() {
				defer all.Done()
				entry := &envoy.RateLimitDescriptor_Entry{Key: "tenant", Value: fmt.Sprintf("t%d-%d", n, m)}
				request := &rls.RateLimitRequest{
					Domain:      "bench",
					Descriptors: []*envoy.RateLimitDescriptor{{Entries: []*envoy.RateLimitDescriptor_Entry{entry}}},
				}
				var mine []time.Duration
				for now := time.Now(); now.Before(end); {
					answer, err := client.ShouldRateLimit(context.Background(), request)
					check(err)
					if answer.OverallCode != rls.RateLimitResponse_OK || answer.Statuses[0].CurrentLimit == nil {
						log.Fatalf("no limit was checked: %v", answer)
					}
					then := time.Now()
					mine = append(mine, then.Sub(now))
					now = then
				}
				lock.Lock()
				times = append(times, mine)
				lock.Unlock()
			}()
		}
	}
	all.Wait()
	total := 0
	for _, mine := range times {
		total += len(mine)
	}
	return decisions{total, time.Since(begun).Seconds(), spreadOf(times...)}
}
