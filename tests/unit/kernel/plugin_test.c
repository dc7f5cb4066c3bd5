/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_test.c - order of instances, order and classes of hooks, full-size copies of tables. Loading, lifecycle and refusals
 * are in tests/plays/refusals_test.py, with real files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include "core/core.h"
#include "plugin/plugin.h"

static const char *none[] = { NULL };

/* ---- order ---- */
#define MAX 8
static struct zk_manifest notes[MAX];
static struct zk_order_item items[MAX];
static uint32_t n_items;

static void add(const char *id, const char **provides, const char **requires, const char **wants)
{
    notes[n_items] = (struct zk_manifest){ .id = id, .version = "1", .provides = provides ? provides : none, .requires = requires ? requires : none, .wants = wants ? wants : none, .conflicts = none };
    items[n_items] = (struct zk_order_item){ id, &notes[n_items], NULL };
    n_items++;
}

static const char *solved(void)
{
    static char text[256];
    text[0] = 0;
    if (zk_order_solve(items, n_items) != ZR_OK)
        return zk_err_text();
    for (uint32_t i = 0; i < n_items; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "", items[i].as);
    return text;
}

#define LIST(...) ((const char *[]){ __VA_ARGS__, NULL })

Test(order, is_the_configured_one_where_nothing_is_required)
{
    cr_expect_str_eq(solved(), "");
    add("c", NULL, NULL, NULL);
    add("a", NULL, NULL, NULL);
    add("b", NULL, NULL, NULL);
    cr_expect_str_eq(solved(), "c a b");
}

Test(order, puts_all_providers_first)
{
    add("user", NULL, LIST("t/1", "s/1"), NULL);
    add("t1", LIST("t/1"), NULL, NULL);
    add("other", NULL, NULL, NULL);
    add("t2", LIST("t/1"), NULL, NULL);
    add("s1", LIST("s/1"), LIST("t/1"), NULL);
    cr_expect_str_eq(solved(), "t1 t2 s1 user other");
}

Test(order, wants_are_an_order_among_those_that_are_there)
{
    add("a", NULL, NULL, LIST("x/1", "nobody/1"));
    add("b", LIST("x/1"), NULL, NULL);
    cr_expect_str_eq(solved(), "b a");
}

Test(order, a_want_never_breaks_a_requirement)
{
    add("a", LIST("a/1"), NULL, LIST("b/1"));
    add("b", LIST("b/1"), LIST("a/1"), NULL);
    cr_expect_str_eq(solved(), "a b");
}

Test(order, a_loop_names_its_path)
{
    add("free", NULL, NULL, NULL);
    add("a", LIST("a/1"), LIST("c/1"), NULL);
    add("b", LIST("b/1"), LIST("a/1"), NULL);
    add("c", LIST("c/1"), LIST("b/1"), NULL);
    cr_expect_str_eq(solved(), "L11: the requirements go in a loop: a requires c/1 of c requires b/1 of b requires a/1 of a");
}

/* ---- hooks ---- */
static struct zk_instance instances[MAX], *list[MAX];
static struct zk_plugin_conf confs[MAX];
static struct zr_hook hooks_of[MAX];
static struct zr_hooks_v1 tables[MAX];
static char called[64];
static zr_status answer[MAX];
static uint32_t verdict_of[MAX];

static zr_status on_call(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    uint32_t i = (uint32_t)((struct zk_instance *)(void *)inst - instances);
    (void)event;
    strcat(called, instances[i].id);
    verdict->what = verdict_of[i];
    verdict->code = (int32_t)i;
    return answer[i];
}

static struct zr_hook *hook(const char *id, uint32_t klass, const char *before, const char *after)
{
    uint32_t i = zk_n_instances++;
    hooks_of[i] = (struct zr_hook){ ZR_HDR(struct zr_hook, 0), ZR_POINT_PUBLISH, klass, NULL, 0, 0, before, after, on_call };
    tables[i] = (struct zr_hooks_v1){ ZR_HDR(struct zr_hooks_v1, 0), &hooks_of[i], 1, 0 };
    instances[i] = (struct zk_instance){ .id = id, .as = id, .hooks = &tables[i], .conf = &confs[i], .inst = (struct zr_inst *)(void *)&instances[i] };
    list[i] = &instances[i];
    zk_instances = list;
    return &hooks_of[i];
}

static struct zr_verdict run(int32_t code, uint32_t request_flags)
{
    struct zr_request request = { .hdr = ZR_HDR(struct zr_request, 0), .code = code, .flags = request_flags };
    struct zr_event event = { .hdr = ZR_HDR(struct zr_event, 0), .request = &request, .point = ZR_POINT_PUBLISH, .code = code };
    struct zr_verdict v = { ZR_HDR(struct zr_verdict, 0), 77, 0, { NULL, 0 } };
    called[0] = 0;
    zk_hooks_run(ZR_POINT_PUBLISH, &event, &v);
    return v;
}

Test(hooks, order_is_constraints_then_configuration)
{
    hook("a", ZR_CLASS_OBSERVE, NULL, "c");
    hook("b", ZR_CLASS_OBSERVE, NULL, NULL);
    hook("c", ZR_CLASS_OBSERVE, NULL, NULL);
    hook("d", ZR_CLASS_OBSERVE, "b x", NULL);
    struct zk_instance *t = list[0]; /* the start order is another than the configured one */
    list[0] = list[3];
    list[3] = t;
    cr_assert_eq(zk_hooks_build(), ZR_OK);
    cr_expect_eq(zk_hooks_at(ZR_POINT_PUBLISH), 4u);
    cr_expect_eq(zk_hooks_at(ZR_POINT_STORED), 0u);
    cr_expect_eq(zk_hooks_at(12345), 0u);
    run(10, 0);
    cr_expect_str_eq(called, "cadb");
    zk_hooks_drop();
    cr_expect_eq(zk_hooks_at(ZR_POINT_PUBLISH), 0u);
}

Test(hooks, a_loop_is_refused)
{
    hook("a", ZR_CLASS_OBSERVE, NULL, "b");
    hook("b", ZR_CLASS_OBSERVE, NULL, "a");
    cr_expect_neq(zk_hooks_build(), ZR_OK);
    cr_expect(strstr(zk_err_text(), "loop"), "%s", zk_err_text());
    cr_expect_eq(zk_hooks_at(ZR_POINT_PUBLISH), 0u);
}

Test(hooks, the_first_that_refuses_ends_the_chain)
{
    hook("a", ZR_CLASS_GUARD, NULL, NULL);
    hook("b", ZR_CLASS_GUARD, NULL, NULL);
    hook("c", ZR_CLASS_TRANSFORM, NULL, NULL);
    cr_assert_eq(zk_hooks_build(), ZR_OK);
    cr_expect_eq(run(10, 0).what, ZR_VERDICT_CONTINUE);
    cr_expect_str_eq(called, "abc");
    verdict_of[1] = ZR_VERDICT_REJECT;
    struct zr_verdict v = run(10, 0);
    cr_expect_eq(v.what, ZR_VERDICT_REJECT);
    cr_expect_eq(v.code, 1);
    cr_expect_str_eq(called, "ab");
    verdict_of[1] = 0;
    verdict_of[2] = ZR_VERDICT_HANDLED;
    cr_expect_eq(run(10, 0).what, ZR_VERDICT_HANDLED);
    zk_hooks_drop();
}

Test(hooks, what_they_do_not_know_and_when_they_fail)
{
    static const int32_t codes[] = { 10, 310 };
    struct zr_hook *h = hook("a", ZR_CLASS_OBSERVE, NULL, NULL);
    h->codes = codes;
    h->n_codes = 2;
    cr_assert_eq(zk_hooks_build(), ZR_OK);
    run(99, 0);
    cr_expect_str_eq(called, "a", "an observer sees what it does not know");
    answer[0] = ZR_EIO;
    verdict_of[0] = ZR_VERDICT_REJECT;
    cr_expect_eq(run(10, 0).what, ZR_VERDICT_CONTINUE, "an observer can neither fail nor refuse");
    h->klass = ZR_CLASS_GUARD;
    answer[0] = ZR_OK;
    verdict_of[0] = 0;
    cr_expect_eq(run(99, 0).what, ZR_VERDICT_CONTINUE, "a guard lets reads pass that it does not know");
    cr_expect_str_eq(called, "", "and is not asked");
    struct zr_verdict v = run(99, ZR_REQUEST_GUARDED);
    cr_expect_eq(v.what, ZR_VERDICT_REJECT, "a guard refuses changes it does not know");
    cr_expect_eq(v.code, 16);
    cr_expect_eq(run(0, 0).what, ZR_VERDICT_CONTINUE);
    cr_expect_str_eq(called, "a", "code 0 is known to all");
    answer[0] = ZR_EIO;
    v = run(10, 0);
    cr_expect_eq(v.what, ZR_VERDICT_REJECT, "a guard that fails refuses");
    cr_expect_eq(v.code, 1);
    cr_expect(zl_starts(v.remark, "a: "));
    h->klass = ZR_CLASS_TRANSFORM;
    answer[0] = ZR_OK;
    cr_expect_eq(run(99, 0).what, ZR_VERDICT_REJECT, "a transformation refuses what it does not know at PUBLISH");
    zk_hooks_drop();
}

/* ---- tables ---- */
static const void *given;
static const void *query(struct zr_inst *inst, const char *iface)
{
    (void)inst, (void)iface;
    return given;
}

static uint32_t three_lanes(struct zr_inst *i) { return (void)i, 3u; }

static zr_status take(struct zk_instance *in, const char *iface, const void *table)
{
    static const struct zr_plugin plugin = { .hdr = ZR_HDR(struct zr_plugin, 0), .query = query };
    static struct zk_manifest note;
    static const char *provides[] = { ZR_IF_TRANSPORT, ZR_IF_STORAGE, "own/1", NULL };
    note = (struct zk_manifest){ .id = "p", .provides = provides, .requires = none, .wants = none, .conflicts = none };
    *in = (struct zk_instance){ .id = "p", .as = "p", .plugin = &plugin, .manifest = &note, .inst = (struct zr_inst *)(void *)in };
    given = table;
    return zk_tables_take(in, iface);
}

static zr_status done_status;
static void on_done(void *ctx, zr_status status)
{
    (void)ctx;
    done_status = status;
}

Test(tables, an_older_and_emptier_one_can_be_called_all_the_same)
{
    struct zk_instance in;
    /* A table of a minor that ended behind lanes; what lies behind its size must not be looked at. */
    struct { struct zr_transport_v1 t; } old = { { .hdr = { (uint32_t)ZR_END(struct zr_transport_v1, lanes), 0, 0 }, .lanes = three_lanes, .send = (void *)(uintptr_t)0xdeadbeef } };
    cr_assert_eq(take(&in, ZR_IF_TRANSPORT, &old), ZR_OK, "%s", zk_err_text());
    cr_expect_eq(in.transport->hdr.size, sizeof(struct zr_transport_v1));
    cr_expect_eq(in.transport->lanes(in.inst), 3u);
    struct zr_output out = { .hdr = ZR_HDR(struct zr_output, 0), .done = on_done };
    cr_expect_eq(in.transport->send(in.inst, NULL, &out), ZR_ENOTSUP);
    cr_expect_eq(done_status, ZR_ENOTSUP, "done is called all the same");
    cr_expect_eq(in.transport->dial(in.inst, (struct zr_str)ZR_STR("x"), 0, NULL), ZR_ENOTSUP);
    cr_expect_null(in.transport->schemes[0]);
    cr_expect_eq(zk_tables_get(&in, ZR_IF_TRANSPORT), in.transport);
    cr_expect_null(zk_tables_get(&in, "zarya.other/1"));
}

Test(tables, storage_without_anything)
{
    struct zk_instance in;
    static const struct zr_storage_v1 empty = { .hdr = ZR_HDR(struct zr_storage_v1, 0) };
    struct zr_put puts[2] = { { .hdr = ZR_HDR(struct zr_put, 0) }, { .hdr = ZR_HDR(struct zr_put, 0) } };
    int64_t end = 5, min, max;
    uint64_t removed;
    cr_assert_eq(take(&in, ZR_IF_STORAGE, &empty), ZR_OK);
    in.storage->append(in.inst, NULL, 2, puts, &end);
    cr_expect_eq(puts[0].status, ZR_ENOTSUP);
    cr_expect_eq(puts[1].status, ZR_ENOTSUP);
    in.storage->bounds(in.inst, NULL, &min, &max);
    cr_expect_eq(max, 0);
    cr_expect_eq(in.storage->clean(in.inst, &removed), ZR_ENOTSUP);
    cr_expect_null(in.storage->queue(in.inst, (struct zr_str)ZR_STR("t"), 0, 1));
}

Test(tables, what_cannot_be_one_is_refused)
{
    struct zk_instance in;
    struct zr_hdr small = { 4, 0, 0 }, flagged = { sizeof(struct zr_transport_v1), 0, 1 }, later = { sizeof(struct zr_transport_v1), 0, 0x100 };
    struct zr_transport_v1 t = { .hdr = flagged };
    cr_expect_neq(take(&in, ZR_IF_TRANSPORT, NULL), ZR_OK);
    cr_expect_neq(take(&in, ZR_IF_TRANSPORT, &small), ZR_OK);
    cr_expect_neq(take(&in, ZR_IF_TRANSPORT, &t), ZR_OK);
    cr_expect(strstr(zk_err_text(), "must-understand"));
    t.hdr = later;
    cr_expect_eq(take(&in, ZR_IF_TRANSPORT, &t), ZR_OK, "high flags may be ignored");
    struct zr_hooks_v1 hooks = { ZR_HDR(struct zr_hooks_v1, 0), NULL, 1, 0 };
    cr_expect_neq(take(&in, ZR_IF_HOOKS, &hooks), ZR_OK, "one hook, but no array");
    struct zr_handler handler = { .hdr = ZR_HDR(struct zr_handler, 0), .code = 1 };
    struct zr_requests_v1 requests = { ZR_HDR(struct zr_requests_v1, 0), &handler, 1, 0 };
    cr_expect_neq(take(&in, ZR_IF_REQUESTS, &requests), ZR_OK, "a handler without a function");
    static const struct zr_hdr own = { sizeof own, 0, 0 };
    cr_expect_eq(take(&in, "own/1", &own), ZR_OK);
    cr_expect_eq(zk_tables_get(&in, "own/1"), &own, "an interface between plugins is passed on as it is");
}
