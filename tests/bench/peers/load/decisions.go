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
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type decisions struct {
	Done    int     `json:"done"`
	Seconds float64 `json:"seconds"`
	Latency spread  `json:"latency_us"`
	After   *spread `json:"after_us,omitempty"` // of a call of its own that ends what was begun
}

// Each stream keeps -outstanding calls; the answer to n of them is settled in one message with n new ones.
func session(args []string) any {
	set := flag.NewFlagSet("session", flag.ExitOnError)
	address := set.String("address", "", "of the broker")
	streams := set.Int("streams", 1, "connections, one stream each")
	outstanding := set.Int("outstanding", 1, "calls of a stream that wait for their grant")
	seconds := set.Float64("seconds", 3, "how long")
	tenants := set.Int("tenants", 16, "calls go round tenants bench/t0, bench/t1, ...")
	var hello template
	var c call
	set.Var(&hello, "hello", "Hello without session_id, in hex")
	set.Var(&c.ask, "ask", "CallRequest without call_id and tenant, in hex")
	set.Var(&c.observe, "observe", "Observation without call_id, in hex; empty: none is sent")
	set.Var(&c.settle, "settle", "Settlement without call_id, in hex")
	check(set.Parse(args))
	asks := make([]template, *tenants)
	for n := range asks {
		asks[n] = c.ask.of(n)
	}

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
			s, err := open(ctx, dial(*address, ""), hello, []byte(owner))
			check(err)
			var message []byte
			next := 0
			ask := func(count int) {
				for range count {
					message = asks[next%len(asks)].with(callID(owner, next), message, acquireField)
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
	return decisions{Done: total, Seconds: time.Since(begun).Seconds(), Latency: spreadOf(times...)}
}

// ShouldRateLimit calls. Without -pairs one call with one limit, again and again. With -pairs what a gateway does that
// budgets tokens with ratelimit, per LLM call: before it, a check of requests (1) and tokens (0) of the tenant and of the
// pool, whose time is the latency, since an LLM call waits for no more; after it, a charge of the used tokens to both.
func ratelimit(args []string) any {
	set := flag.NewFlagSet("ratelimit", flag.ExitOnError)
	address := set.String("address", "", "of the service")
	connections := set.Int("connections", 1, "connections")
	outstanding := set.Int("outstanding", 1, "calls under way on each connection")
	seconds := set.Float64("seconds", 3, "how long")
	pairs := set.Bool("pairs", false, "a check before and a charge after each LLM call")
	tokens := set.Uint64("tokens", 165, "that a charge adds")
	tenants := set.Int("tenants", 16, "the calls under way go round as many tenants")
	check(set.Parse(args))

	if *pairs {
		chargesCount(rls.NewRateLimitServiceClient(dial(*address, "")), *tokens)
	}
	var all sync.WaitGroup
	var lock sync.Mutex
	var times, charged [][]time.Duration
	begun := time.Now()
	end := begun.Add(time.Duration(*seconds * 1e9))
	for n := range *connections {
		client := rls.NewRateLimitServiceClient(dial(*address, ""))
		for m := range *outstanding {
			all.Add(1)
			go func() {
				defer all.Done()
				tenant := fmt.Sprintf("bench/t%d", (n**outstanding+m)%*tenants)
				before, after := asked(limit(1, "tenant", tenant)), (*rls.RateLimitRequest)(nil)
				if *pairs {
					before, after = perCall(tenant, *tokens)
				}
				var mine, later []time.Duration
				for now := time.Now(); now.Before(end); {
					left(client, before)
					then := time.Now()
					mine = append(mine, then.Sub(now))
					now = then
					if after != nil {
						left(client, after)
						now = time.Now()
						later = append(later, now.Sub(then))
					}
				}
				lock.Lock()
				times, charged = append(times, mine), append(charged, later)
				lock.Unlock()
			}()
		}
	}
	all.Wait()
	total := 0
	for _, mine := range times {
		total += len(mine)
	}
	result := decisions{Done: total, Seconds: time.Since(begun).Seconds(), Latency: spreadOf(times...)}
	if *pairs {
		spread := spreadOf(charged...)
		result.After = &spread
	}
	return result
}

// The two requests of an LLM call.
func perCall(tenant string, tokens uint64) (before, after *rls.RateLimitRequest) {
	const requests, used, pool = "requests", "tokens", "gpt-4o"
	before = asked(
		limit(1, "tenant", tenant, "counts", requests), limit(0, "tenant", tenant, "counts", used),
		limit(1, "pool", pool, "counts", requests), limit(0, "pool", pool, "counts", used),
	)
	after = asked(limit(tokens, "tenant", tenant, "counts", used), limit(tokens, "pool", pool, "counts", used))
	return before, after
}

func asked(limits ...*envoy.RateLimitDescriptor) *rls.RateLimitRequest {
	return &rls.RateLimitRequest{Domain: "bench", Descriptors: limits}
}

func limit(hits uint64, words ...string) *envoy.RateLimitDescriptor {
	d := &envoy.RateLimitDescriptor{HitsAddend: wrapperspb.UInt64(hits)}
	for n := 0; n < len(words); n += 2 {
		d.Entries = append(d.Entries, &envoy.RateLimitDescriptor_Entry{Key: words[n], Value: words[n+1]})
	}
	return d
}

// Makes the call; what each of its limits has left. Fails where one is not known or is used up.
func left(client rls.RateLimitServiceClient, request *rls.RateLimitRequest) []uint32 {
	answer, err := client.ShouldRateLimit(context.Background(), request)
	check(err)
	if answer.OverallCode != rls.RateLimitResponse_OK || len(answer.Statuses) != len(request.Descriptors) {
		log.Fatalf("not permitted: %v", answer)
	}
	remaining := make([]uint32, 0, 4)
	for _, status := range answer.Statuses {
		if status.CurrentLimit == nil {
			log.Fatalf("no limit was checked: %v", answer)
		}
		remaining = append(remaining, status.LimitRemaining)
	}
	return remaining
}

// Fails unless a check takes one request and no token, and a charge its tokens, of the tenant and of the pool: read from
// what the limits have left, which the service computes from Redis' answers.
func chargesCount(client rls.RateLimitServiceClient, tokens uint64) {
	before, after := perCall(fmt.Sprintf("probe-%d", os.Getpid()), tokens)
	for {
		minute := time.Now().Unix() / 60
		first := left(client, before)
		left(client, after)
		second := left(client, before)
		if time.Now().Unix()/60 != minute {
			continue // the counts began anew in between
		}
		for n, want := range []uint32{1, uint32(tokens), 1, uint32(tokens)} {
			if gone := first[n] - second[n]; gone != want {
				log.Fatalf("limit %d fell by %d, not by %d: checks and charges do not count", n, gone, want)
			}
		}
		return
	}
}
