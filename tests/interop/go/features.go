// SPDX-License-Identifier: Apache-2.0
// The awkward sides of the official Go client: a consumer that fails until its message is dead, SQL92, request and reply, and a
// transaction producer that dies before it says how its transaction ended, and comes back.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func producerOf(group string) rocketmq.Producer {
	p, err := rocketmq.NewProducer(producer.WithNameServer([]string{namesrv}), producer.WithGroupName(group), producer.WithRetry(3),
		producer.WithInstanceName("i"+group))
	if err == nil {
		err = p.Start()
	}
	check(err == nil, "a producer starts", err)
	return p
}

// Does the name server know the topic's route?
func routed(topic string) bool {
	c, err := net.DialTimeout("tcp", namesrv, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	header, _ := json.Marshal(map[string]any{"code": 105, "extFields": map[string]string{"topic": topic}, "flag": 0, "language": "GO", "opaque": 1,
		"serializeTypeCurrentRPC": "JSON", "version": 317})
	words := binary.BigEndian.AppendUint32(nil, uint32(4+len(header)))
	c.Write(append(binary.BigEndian.AppendUint32(words, uint32(len(header))), header...))
	var head [8]byte
	if _, err = io.ReadFull(c, head[:]); err != nil {
		return false
	}
	var answer struct{ Code int }
	text := make([]byte, binary.BigEndian.Uint32(head[4:])&0xFFFFFF)
	_, err = io.ReadFull(c, text)
	return err == nil && json.Unmarshal(text, &answer) == nil && answer.Code == 0
}

func dead() {
	topic := "GoDead" + run
	p := producerOf("PG_" + topic)
	for i := 0; i < 3; i++ {
		_, err := p.SendSync(context.Background(), primitive.NewMessage(topic, []byte("d"+strconv.Itoa(i))))
		check(err == nil, "send of what will fail", err)
	}
	var tries, buried seen
	c, err := rocketmq.NewPushConsumer(consumer.WithGroupName("CG_"+topic), consumer.WithNameServer([]string{namesrv}), consumer.WithInstance("c"+topic),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithMaxReconsumeTimes(2))
	if err == nil {
		err = c.Subscribe(topic, consumer.MessageSelector{}, func(ctx context.Context, msgs ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			for _, m := range msgs {
				tries.add(string(m.Body) + "|" + m.Topic + "|" + strconv.Itoa(int(m.ReconsumeTimes)))
			}
			return consumer.ConsumeRetryLater, nil
		})
	}
	if err == nil {
		err = c.Start()
	}
	check(err == nil, "a consumer that always fails starts", err)
	check(await(90*time.Second, func() bool { return tries.len() >= 9 }), "what fails comes again, up to its limit", tries.all())
	await(30*time.Second, func() bool { return routed("%DLQ%CG_" + topic) }) // a consumer that starts before that fails for good
	b := pushInto("%DLQ%CG_"+topic, consumer.MessageSelector{}, &buried, consumer.WithGroupName("CG_dlq"+run))
	check(await(90*time.Second, func() bool { return buried.len() >= 3 }), "and is dead in the end", buried.all())
	all := strings.Join(tries.all(), " ")
	for i := 0; i < 3; i++ {
		for n := 0; n < 3; n++ {
			want := "d" + strconv.Itoa(i) + "|" + topic + "|" + strconv.Itoa(n)
			check(strings.Count(all, want) == 1, "once for each count, under its own topic: "+want, all)
		}
	}
	c.Shutdown()
	if b != nil {
		b.Shutdown()
	}
	p.Shutdown()
}

func sql() {
	topic := "GoSql" + run
	p := producerOf("PG_" + topic)
	for i := 0; i < 20; i++ {
		m := primitive.NewMessage(topic, []byte("s"+strconv.Itoa(i)))
		m.WithProperty("n", strconv.Itoa(i))
		m.WithProperty("side", []string{"left", "right"}[i%2])
		_, err := p.SendSync(context.Background(), m)
		check(err == nil, "send with properties", err)
	}
	expressions := []struct {
		text string
		want int
	}{
		{"n BETWEEN 5 AND 14 AND side = 'left'", 5},
		{"side IN ('right', 'none')", 10},
		{"n >= 18 OR n < 2", 4},
		{"none IS NULL AND NOT (n > 3)", 4},
		{"side STARTSWITH 'ri' AND n <> 1", 9},
	}
	got, all := make([]seen, len(expressions)), []rocketmq.PushConsumer{}
	for i, e := range expressions {
		name := "CG_" + topic + strconv.Itoa(i)
		if c := pushInto(topic, consumer.MessageSelector{Type: consumer.SQL92, Expression: e.text}, &got[i], consumer.WithGroupName(name), consumer.WithInstance(name)); c != nil {
			all = append(all, c)
		}
	}
	for i, e := range expressions {
		check(await(60*time.Second, func() bool { return got[i].len() >= e.want }), "SQL92 gives what matches "+e.text, got[i].all())
	}
	time.Sleep(300 * time.Millisecond)
	for i, e := range expressions {
		check(got[i].len() == e.want, "and nothing else: "+e.text, got[i].all())
	}
	for _, c := range all {
		c.Shutdown()
	}
	p.Shutdown()
}

// This client's CreateReplyMessage takes the body for properties, so the reply has none; and its producer is known to the broker
// by a heartbeat only, which may be half a minute away.
func request() {
	topic := "GoRequest" + run
	answers, p := producerOf("PG_r"+topic), producerOf("PG_"+topic)
	_, err := p.SendSync(context.Background(), primitive.NewMessage(topic, []byte("no request"))) // the topic is there
	check(err == nil, "send to the topic of requests", err)
	c, err := rocketmq.NewPushConsumer(consumer.WithGroupName("CG_"+topic), consumer.WithNameServer([]string{namesrv}), consumer.WithInstance("c"+topic),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err == nil {
		err = c.Subscribe(topic, consumer.MessageSelector{}, func(ctx context.Context, msgs ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			for _, m := range msgs {
				if r, err := consumer.CreateReplyMessage(m, nil); err == nil && consumer.GetReplyToClient(m) != "" {
					r.WithProperty("says", "yes to "+string(m.Body))
					answers.SendSync(context.Background(), r)
				}
			}
			return consumer.ConsumeSuccess, nil
		})
	}
	if err == nil {
		err = c.Start()
	}
	check(err == nil, "a consumer that replies starts", err)
	said := ""
	check(await(90*time.Second, func() bool {
		r, err := p.Request(context.Background(), 3*time.Second, primitive.NewMessage(topic, []byte("a question")))
		if err == nil && r != nil {
			said = r.GetProperty("says")
		}
		return said != ""
	}), "a request gets its reply", said)
	check(said == "yes to a question", "the one to it", said)
	c.Shutdown()
	p.Shutdown()
	answers.Shutdown()
}

type silent struct{}

func (silent) ExecuteLocalTransaction(*primitive.Message) primitive.LocalTransactionState {
	os.Exit(0) // before anything is told
	return primitive.UnknowState
}

func (silent) CheckLocalTransaction(*primitive.MessageExt) primitive.LocalTransactionState {
	return primitive.UnknowState
}

// vanish sends a half message and is gone; a second process calls back.
func vanish() {
	p, err := rocketmq.NewTransactionProducer(silent{}, producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_GoGone"+run), producer.WithInstanceName("v"+run))
	if err == nil {
		err = p.Start()
	}
	if err == nil {
		_, err = p.SendMessageInTransaction(context.Background(), primitive.NewMessage("GoGone"+run, []byte("commit me")))
	}
	check(false, "the process ends within its transaction", err)
	os.Exit(1)
}

func back() {
	topic := "GoGone" + run
	l, got := &listener{&seen{}}, &seen{}
	p, err := rocketmq.NewTransactionProducer(l, producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_"+topic), producer.WithInstanceName("b"+run))
	if err == nil {
		err = p.Start()
	}
	check(err == nil, "the producer is back", err)
	// Only who has the topic's route sends heartbeats: a transaction that is rolled back brings it.
	_, err = p.SendMessageInTransaction(context.Background(), primitive.NewMessage(topic, []byte("rollback")))
	check(err == nil, "a transaction of the one that is back", err)
	c := pushInto(topic, consumer.MessageSelector{}, got)
	check(await(90*time.Second, func() bool { return got.len() >= 1 }), "it is asked, and says how it ended", l.checked.all())
	check(got.len() == 1 && got.all()[0] == "|commit me", "the message of the one that died comes once", got.all())
	if c != nil {
		c.Shutdown()
	}
	p.Shutdown()
}

func features() {
	var wg sync.WaitGroup
	for _, f := range []func(){dead, sql, request, back} {
		wg.Add(1)
		go func(f func()) { defer wg.Done(); f() }(f)
	}
	wg.Wait()
	if failed {
		os.Exit(1)
	}
}
