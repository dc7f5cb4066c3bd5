// SPDX-License-Identifier: Apache-2.0
// Scenarios of the official Go client against a name server and broker that are already there: send, push, tags, order.
// Usage: interop NAMESRV RUN. Prints "ok - ..." and "not ok - ..." lines.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var failed bool
var namesrv, run string

func check(ok bool, what string, why interface{}) bool {
	if ok {
		fmt.Println("ok - go " + what)
	} else {
		failed = true
		fmt.Println("not ok - go "+what+":", why)
	}
	return ok
}

func await(d time.Duration, f func() bool) bool {
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		if f() {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return f()
}

type seen struct {
	sync.Mutex
	list []string
}

func (s *seen) add(v string) { s.Lock(); s.list = append(s.list, v); s.Unlock() }
func (s *seen) len() int     { s.Lock(); defer s.Unlock(); return len(s.list) }
func (s *seen) all() []string {
	s.Lock()
	defer s.Unlock()
	return append([]string{}, s.list...)
}

func pushInto(topic string, selector consumer.MessageSelector, s *seen, opts ...consumer.Option) rocketmq.PushConsumer {
	opts = append([]consumer.Option{consumer.WithGroupName("CG_" + topic), consumer.WithNameServer([]string{namesrv}),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithInstance("c" + topic)}, opts...)
	c, err := rocketmq.NewPushConsumer(opts...)
	if err != nil {
		check(false, "push consumer", err)
		return nil
	}
	err = c.Subscribe(topic, selector, func(ctx context.Context, msgs ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, m := range msgs {
			s.add(m.GetTags() + "|" + string(m.Body))
		}
		return consumer.ConsumeSuccess, nil
	})
	if err == nil {
		err = c.Start()
	}
	check(err == nil, "push consumer starts", err)
	return c
}

func main() {
	namesrv, run = os.Args[1], os.Args[2]
	rlog.SetLogLevel("error")
	if len(os.Args) > 3 && os.Args[3] == "trace" {
		trace(run)
		return
	}
	if len(os.Args) > 3 && os.Args[3] == "vanish" {
		vanish()
	}
	if len(os.Args) > 3 && os.Args[3] == "features" {
		features()
		return
	}
	if len(os.Args) > 5 && os.Args[3] == "orderly" {
		orderly(os.Args[4], os.Args[5])
	}
	if len(os.Args) > 5 && os.Args[3] == "held" {
		all := []int64{}
		for _, text := range os.Args[5:] {
			ms, _ := strconv.ParseInt(text, 10, 64)
			all = append(all, ms)
		}
		held(os.Args[4], all...)
	}
	delays("GoDelay" + run)
	p, err := rocketmq.NewProducer(producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_go_"+run), producer.WithRetry(2),
		producer.WithInstanceName("p"+run), producer.WithQueueSelector(producer.NewManualQueueSelector()))
	if err == nil {
		err = p.Start()
	}
	if !check(err == nil, "producer starts", err) {
		os.Exit(1)
	}
	ordered, err := rocketmq.NewProducer(producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_go_o_"+run), producer.WithRetry(2),
		producer.WithInstanceName("o"+run), producer.WithQueueSelector(producer.NewHashQueueSelector()))
	if err == nil {
		err = ordered.Start()
	}
	check(err == nil, "ordered producer starts", err)

	transactions()

	// Tags: the consumer takes two of three.
	topic := "GoTags_" + run
	plain, _ := rocketmq.NewProducer(producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_go_p_"+run), producer.WithInstanceName("q"+run), producer.WithRetry(3))
	check(plain.Start() == nil, "plain producer starts", "")
	ok := 0
	for i := 0; i < 60; i++ {
		m := primitive.NewMessage(topic, []byte("m"+strconv.Itoa(i))).WithTag("Tag" + string("ABC"[i%3])).WithKeys([]string{"k" + strconv.Itoa(i)})
		r, err := plain.SendSync(context.Background(), m)
		if err == nil && r.Status == primitive.SendOK {
			ok++
		} else {
			check(false, "send", err)
			break
		}
	}
	check(ok == 60, "sends to a new topic", ok)
	var tags seen
	c := pushInto(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "TagA || TagC"}, &tags)
	check(await(60*time.Second, func() bool { return tags.len() >= 40 }), "push consumer with tags gets every message", tags.len())
	time.Sleep(300 * time.Millisecond)
	wrong := 0
	for _, v := range tags.all() {
		if strings.HasPrefix(v, "TagB") {
			wrong++
		}
	}
	check(tags.len() == 40 && wrong == 0, "and nothing else", fmt.Sprint(tags.len(), " ", wrong))
	check(c.Shutdown() == nil, "consumer shuts down", "")

	// Order: each key in the order it was sent.
	topic = "GoOrder_" + run
	for i := 0; i < 100; i++ {
		m := primitive.NewMessage(topic, []byte("o"+strconv.Itoa(i%5)+":"+strconv.Itoa(i))).WithShardingKey("k" + strconv.Itoa(i%5))
		if _, err := ordered.SendSync(context.Background(), m); err != nil {
			check(false, "ordered send", err)
			break
		}
	}
	var order seen
	c = pushInto(topic, consumer.MessageSelector{}, &order, consumer.WithConsumerOrder(true))
	check(await(60*time.Second, func() bool { return order.len() >= 100 }), "orderly consumer gets every message", order.len())
	last, sorted := map[string]int{}, true
	for _, v := range order.all() {
		part := strings.Split(strings.TrimPrefix(v, "|"), ":")
		n, _ := strconv.Atoi(part[1])
		if before, there := last[part[0]]; there && before >= n {
			sorted = false
		}
		last[part[0]] = n
	}
	check(sorted && len(last) == 5, "each key in its order", order.all())
	check(c.Shutdown() == nil, "orderly consumer shuts down", "")

	// One-way and asynchronous.
	topic = "GoAsync_" + run
	var wg sync.WaitGroup
	var good seen
	for i := 0; i < 100; i++ {
		wg.Add(1)
		err := plain.SendAsync(context.Background(), func(ctx context.Context, r *primitive.SendResult, err error) {
			if err == nil && r.Status == primitive.SendOK {
				good.add("x")
			}
			wg.Done()
		}, primitive.NewMessage(topic, []byte("a"+strconv.Itoa(i))))
		if err != nil {
			wg.Done()
		}
	}
	wg.Wait()
	check(good.len() == 100, "asynchronous sends", good.len())
	plain.Shutdown()
	ordered.Shutdown()
	p.Shutdown()
	if failed {
		os.Exit(1)
	}
}
