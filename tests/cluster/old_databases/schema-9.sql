SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.obt_agents (
    id character varying NOT NULL COLLATE pg_catalog."C",
    name character varying NOT NULL COLLATE pg_catalog."C",
    given_name character varying COLLATE pg_catalog."C",
    version character varying NOT NULL COLLATE pg_catalog."C",
    session bigint NOT NULL,
    store_id character varying COLLATE pg_catalog."C",
    capabilities character varying NOT NULL COLLATE pg_catalog."C",
    labels character varying NOT NULL COLLATE pg_catalog."C",
    own_labels character varying NOT NULL COLLATE pg_catalog."C",
    enrolled_at double precision NOT NULL,
    last_seen double precision,
    rotation_requested_at double precision,
    models_at double precision,
    replica character varying COLLATE pg_catalog."C"
);
CREATE TABLE public.obt_api_tokens (
    id bigint NOT NULL,
    sha256 character varying NOT NULL COLLATE pg_catalog."C",
    name character varying NOT NULL COLLATE pg_catalog."C",
    operator character varying NOT NULL COLLATE pg_catalog."C",
    created_at double precision NOT NULL,
    expires_at double precision,
    last_used_at double precision,
    scope character varying NOT NULL COLLATE pg_catalog."C",
    machines character varying NOT NULL COLLATE pg_catalog."C",
    models character varying NOT NULL COLLATE pg_catalog."C"
);
CREATE SEQUENCE public.obt_api_tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_api_tokens_id_seq OWNED BY public.obt_api_tokens.id;
CREATE TABLE public.obt_baselines (
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    model character varying NOT NULL COLLATE pg_catalog."C",
    plan_hash character varying NOT NULL COLLATE pg_catalog."C",
    job_id character varying NOT NULL COLLATE pg_catalog."C",
    at double precision NOT NULL,
    by character varying NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.obt_campaign_cells (
    campaign_id character varying NOT NULL COLLATE pg_catalog."C",
    cell_id character varying NOT NULL COLLATE pg_catalog."C",
    "position" bigint NOT NULL,
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    state character varying NOT NULL COLLATE pg_catalog."C",
    job_id character varying COLLATE pg_catalog."C",
    detail bytea NOT NULL
);
CREATE TABLE public.obt_campaigns (
    id character varying NOT NULL COLLATE pg_catalog."C",
    key character varying COLLATE pg_catalog."C",
    schedule character varying COLLATE pg_catalog."C",
    state character varying NOT NULL COLLATE pg_catalog."C",
    judged boolean NOT NULL,
    created_at double precision NOT NULL,
    content bytea NOT NULL
);
CREATE TABLE public.obt_change_causes (
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    name character varying NOT NULL COLLATE pg_catalog."C",
    job_id character varying COLLATE pg_catalog."C",
    rollout_id character varying COLLATE pg_catalog."C",
    model_set character varying COLLATE pg_catalog."C",
    operator character varying COLLATE pg_catalog."C",
    expires_at double precision NOT NULL
);
CREATE TABLE public.obt_cluster (
    number bigint NOT NULL,
    id character varying NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.obt_credentials (
    id bigint NOT NULL,
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    sha256 character varying NOT NULL COLLATE pg_catalog."C",
    state character varying NOT NULL COLLATE pg_catalog."C",
    created_at double precision NOT NULL,
    last_used_at double precision
);
CREATE SEQUENCE public.obt_credentials_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_credentials_id_seq OWNED BY public.obt_credentials.id;
CREATE TABLE public.obt_hardware (
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    fingerprint character varying NOT NULL COLLATE pg_catalog."C",
    inventory bytea NOT NULL,
    updated_at double precision NOT NULL
);
CREATE TABLE public.obt_jobs (
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    job_id character varying NOT NULL COLLATE pg_catalog."C",
    kind character varying NOT NULL COLLATE pg_catalog."C",
    state character varying NOT NULL COLLATE pg_catalog."C",
    params bytea NOT NULL,
    model character varying COLLATE pg_catalog."C",
    model_digest character varying COLLATE pg_catalog."C",
    created_at double precision NOT NULL,
    started_session bigint,
    finished_at double precision,
    error bytea,
    bytes bigint,
    sha256 character varying COLLATE pg_catalog."C"
);
CREATE TABLE public.obt_join_pins (
    "position" bigint NOT NULL,
    pin character varying NOT NULL COLLATE pg_catalog."C"
);
CREATE SEQUENCE public.obt_join_pins_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_join_pins_position_seq OWNED BY public.obt_join_pins."position";
CREATE TABLE public.obt_join_tokens (
    id bigint NOT NULL,
    sha256 character varying NOT NULL COLLATE pg_catalog."C",
    note character varying NOT NULL COLLATE pg_catalog."C",
    agent_id character varying COLLATE pg_catalog."C",
    created_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    revoked_at double precision,
    used_at double precision,
    used_by character varying COLLATE pg_catalog."C",
    used_secret_sha256 character varying COLLATE pg_catalog."C"
);
CREATE SEQUENCE public.obt_join_tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_join_tokens_id_seq OWNED BY public.obt_join_tokens.id;
CREATE TABLE public.obt_leases (
    name character varying NOT NULL COLLATE pg_catalog."C",
    holder character varying NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    expires_at double precision NOT NULL
);
CREATE TABLE public.obt_model_changes (
    id bigint NOT NULL,
    at double precision NOT NULL,
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    name character varying NOT NULL COLLATE pg_catalog."C",
    digest_before character varying COLLATE pg_catalog."C",
    digest_after character varying COLLATE pg_catalog."C",
    rollout_id character varying COLLATE pg_catalog."C",
    model_set character varying COLLATE pg_catalog."C",
    operator character varying COLLATE pg_catalog."C"
);
CREATE SEQUENCE public.obt_model_changes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_model_changes_id_seq OWNED BY public.obt_model_changes.id;
CREATE TABLE public.obt_model_sets (
    name character varying NOT NULL COLLATE pg_catalog."C",
    content bytea NOT NULL
);
CREATE TABLE public.obt_model_versions (
    id bigint NOT NULL,
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    name character varying NOT NULL COLLATE pg_catalog."C",
    digest character varying NOT NULL COLLATE pg_catalog."C",
    current boolean NOT NULL,
    first_seen double precision NOT NULL,
    last_seen double precision NOT NULL,
    details bytea NOT NULL
);
CREATE SEQUENCE public.obt_model_versions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_model_versions_id_seq OWNED BY public.obt_model_versions.id;
CREATE TABLE public.obt_operators (
    name character varying NOT NULL COLLATE pg_catalog."C",
    password character varying NOT NULL COLLATE pg_catalog."C",
    created_at double precision NOT NULL
);
CREATE TABLE public.obt_plan_versions (
    name character varying NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    hash character varying COLLATE pg_catalog."C",
    plan bytea NOT NULL,
    comment character varying COLLATE pg_catalog."C",
    saved_at double precision NOT NULL,
    saved_by character varying NOT NULL COLLATE pg_catalog."C",
    deleted boolean NOT NULL
);
CREATE TABLE public.obt_regressions (
    id bigint NOT NULL,
    campaign_id character varying NOT NULL COLLATE pg_catalog."C",
    at double precision NOT NULL,
    last_at double precision NOT NULL,
    last_campaign_id character varying NOT NULL COLLATE pg_catalog."C",
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    model character varying NOT NULL COLLATE pg_catalog."C",
    plan_hash character varying NOT NULL COLLATE pg_catalog."C",
    metric character varying NOT NULL COLLATE pg_catalog."C",
    verdict bytea NOT NULL,
    acknowledged bytea
);
CREATE SEQUENCE public.obt_regressions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_regressions_id_seq OWNED BY public.obt_regressions.id;
CREATE TABLE public.obt_replicas (
    id character varying NOT NULL COLLATE pg_catalog."C",
    seen_at double precision NOT NULL,
    beats bigint NOT NULL,
    "left" boolean NOT NULL,
    state bytea NOT NULL
);
CREATE TABLE public.obt_result_digests (
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    job_id character varying NOT NULL COLLATE pg_catalog."C",
    sha256 character varying NOT NULL COLLATE pg_catalog."C",
    digest bytea NOT NULL
);
CREATE TABLE public.obt_result_parts (
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    job_id character varying NOT NULL COLLATE pg_catalog."C",
    "offset" bigint NOT NULL,
    data bytea NOT NULL,
    size bigint NOT NULL
);
CREATE TABLE public.obt_results (
    id bigint NOT NULL,
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    job_id character varying NOT NULL COLLATE pg_catalog."C",
    sha256 character varying NOT NULL COLLATE pg_catalog."C",
    accepted boolean NOT NULL,
    stored_at double precision NOT NULL,
    text bytea NOT NULL
);
CREATE SEQUENCE public.obt_results_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_results_id_seq OWNED BY public.obt_results.id;
CREATE TABLE public.obt_revision (
    version_num character varying NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.obt_rollout_targets (
    rollout_id character varying NOT NULL COLLATE pg_catalog."C",
    agent_id character varying NOT NULL COLLATE pg_catalog."C",
    "position" bigint NOT NULL,
    state character varying NOT NULL COLLATE pg_catalog."C",
    completed_bytes bigint,
    total_bytes bigint,
    detail bytea NOT NULL
);
CREATE TABLE public.obt_rollouts (
    id character varying NOT NULL COLLATE pg_catalog."C",
    key character varying COLLATE pg_catalog."C",
    action character varying NOT NULL COLLATE pg_catalog."C",
    model character varying NOT NULL COLLATE pg_catalog."C",
    destination character varying COLLATE pg_catalog."C",
    digest character varying COLLATE pg_catalog."C",
    spec bytea,
    parallelism bigint NOT NULL,
    offline character varying NOT NULL COLLATE pg_catalog."C",
    until double precision,
    model_set character varying COLLATE pg_catalog."C",
    state character varying NOT NULL COLLATE pg_catalog."C",
    created_at double precision NOT NULL,
    created_by character varying NOT NULL COLLATE pg_catalog."C",
    finished_at double precision,
    cancelling boolean NOT NULL
);
CREATE TABLE public.obt_schedule_runs (
    schedule character varying NOT NULL COLLATE pg_catalog."C",
    due_at double precision NOT NULL,
    detail bytea NOT NULL
);
CREATE TABLE public.obt_schedules (
    name character varying NOT NULL COLLATE pg_catalog."C",
    content bytea NOT NULL
);
CREATE TABLE public.obt_schema (
    version bigint NOT NULL
);
CREATE SEQUENCE public.obt_schema_version_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.obt_schema_version_seq OWNED BY public.obt_schema.version;
CREATE TABLE public.obt_sign_in_addresses (
    operator character varying NOT NULL COLLATE pg_catalog."C",
    address character varying NOT NULL COLLATE pg_catalog."C",
    last_at double precision NOT NULL
);
CREATE TABLE public.obt_sign_ins (
    sha256 character varying NOT NULL COLLATE pg_catalog."C",
    operator character varying NOT NULL COLLATE pg_catalog."C",
    created_at double precision NOT NULL,
    expires_at double precision NOT NULL
);
CREATE TABLE public.obt_verdicts (
    campaign_id character varying NOT NULL COLLATE pg_catalog."C",
    content bytea NOT NULL
);
ALTER TABLE ONLY public.obt_api_tokens ALTER COLUMN id SET DEFAULT nextval('public.obt_api_tokens_id_seq'::regclass);
ALTER TABLE ONLY public.obt_credentials ALTER COLUMN id SET DEFAULT nextval('public.obt_credentials_id_seq'::regclass);
ALTER TABLE ONLY public.obt_join_pins ALTER COLUMN "position" SET DEFAULT nextval('public.obt_join_pins_position_seq'::regclass);
ALTER TABLE ONLY public.obt_join_tokens ALTER COLUMN id SET DEFAULT nextval('public.obt_join_tokens_id_seq'::regclass);
ALTER TABLE ONLY public.obt_model_changes ALTER COLUMN id SET DEFAULT nextval('public.obt_model_changes_id_seq'::regclass);
ALTER TABLE ONLY public.obt_model_versions ALTER COLUMN id SET DEFAULT nextval('public.obt_model_versions_id_seq'::regclass);
ALTER TABLE ONLY public.obt_regressions ALTER COLUMN id SET DEFAULT nextval('public.obt_regressions_id_seq'::regclass);
ALTER TABLE ONLY public.obt_results ALTER COLUMN id SET DEFAULT nextval('public.obt_results_id_seq'::regclass);
ALTER TABLE ONLY public.obt_schema ALTER COLUMN version SET DEFAULT nextval('public.obt_schema_version_seq'::regclass);
INSERT INTO public.obt_agents VALUES ('0190-1', 'Ångström', NULL, '1.0', 0, NULL, '[]', '[]', '[]', 1700000000.3, NULL, NULL, NULL, NULL);
INSERT INTO public.obt_agents VALUES ('0190-2', 'box (0190-2)', NULL, '1.0', 0, NULL, '[]', '[]', '[]', 1700000000.3, NULL, NULL, NULL, NULL);
INSERT INTO public.obt_agents VALUES ('0190-0', 'box', NULL, '1.0', 1, 'st', '["a","b"]', '[]', '[]', 1700000000.3, 1700000001.7, NULL, 6, 'r1');
INSERT INTO public.obt_api_tokens VALUES (1, 'tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt', 'ci', 'ann', 2.5, NULL, NULL, 'operator', '[]', '[]');
INSERT INTO public.obt_baselines VALUES ('0190-0', 'model', 'plan_hash', 'job_id', 0.30000000000000004, 'by');
INSERT INTO public.obt_campaign_cells VALUES ('id', 'cell_id', 1099511627776, 'agent_id', 'state', 'job_id', '\x7b2278223a317d');
INSERT INTO public.obt_campaigns VALUES ('id', 'key', 'schedule', 'state', true, 0.30000000000000004, '\x7b2278223a317d');
INSERT INTO public.obt_change_causes VALUES ('0190-0', 'name', 'job_id', 'rollout_id', 'model_set', 'operator', 0.30000000000000004);
INSERT INTO public.obt_cluster VALUES (1, 'c0ffee');
INSERT INTO public.obt_credentials VALUES (1, '0190-0', '0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f', 'current', 1700000000.3, 1700000001.7);
INSERT INTO public.obt_credentials VALUES (2, '0190-1', '1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f', 'current', 1700000000.3, NULL);
INSERT INTO public.obt_credentials VALUES (3, '0190-2', '2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f', 'current', 1700000000.3, NULL);
INSERT INTO public.obt_hardware VALUES ('0190-0', 'fp', '\x7b2261223a22c385227d', 7);
INSERT INTO public.obt_jobs VALUES ('0190-0', 'j1', 'benchmark', 'completed', '\x7b226a6f625f6964223a2278227d', 'a:1', 'd1', 8.125, NULL, 9.5, NULL, 9, '1111111111111111111111111111111111111111111111111111111111111111');
INSERT INTO public.obt_jobs VALUES ('0190-0', 'j2', 'benchmark', 'starting', '\x7b226a6f625f6964223a2278227d', 'a:1', NULL, 8.125, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.obt_join_pins VALUES (1, 'pin');
INSERT INTO public.obt_join_tokens VALUES (1, '0000000000000000000000000000000000000000000000000000000000000000', 'n', NULL, 1, 1000000000000, NULL, 1700000000.3, '0190-0', '0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f');
INSERT INTO public.obt_join_tokens VALUES (2, '1111111111111111111111111111111111111111111111111111111111111111', 'n', NULL, 1, 1000000000000, NULL, 1700000000.3, '0190-1', '1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f');
INSERT INTO public.obt_join_tokens VALUES (3, '2222222222222222222222222222222222222222222222222222222222222222', 'n', NULL, 1, 1000000000000, NULL, 1700000000.3, '0190-2', '2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f');
INSERT INTO public.obt_leases VALUES ('leader', 'r1', 3, 1700000003.25);
INSERT INTO public.obt_model_changes VALUES (1, 6, '0190-0', 'a:1', 'd1', 'd2', NULL, NULL, NULL);
INSERT INTO public.obt_model_sets VALUES ('name', '\x7b2278223a317d');
INSERT INTO public.obt_model_versions VALUES (1, '0190-0', 'a:1', 'd1', false, 5, 5, '\x7b226e616d65223a22613a31222c22646967657374223a226431222c2273697a655f6279746573223a313039393531313632373737367d');
INSERT INTO public.obt_model_versions VALUES (2, '0190-0', 'a:1', 'd2', true, 6, 6, '\x7b226e616d65223a22613a31222c22646967657374223a226432222c2273697a655f6279746573223a313039393531313632373737367d');
INSERT INTO public.obt_operators VALUES ('ann', 'scrypt$hash', 1.25);
INSERT INTO public.obt_plan_versions VALUES ('name', 1, 'hash', '\x7b2278223a317d', 'comment', 0.30000000000000004, 'saved_by', true);
INSERT INTO public.obt_regressions VALUES (1, 'campaign_i', 0.30000000000000004, 0.30000000000000004, 'last_campa', 'agent_id', 'model', 'plan_hash', 'metric', '\x7b2278223a317d', '\x7b2278223a317d');
INSERT INTO public.obt_replicas VALUES ('r1', 1700000002.5, 7, false, '\x8101');
INSERT INTO public.obt_result_digests VALUES ('0190-0', 'job_id', 'sha256', '\x7b2278223a317d');
INSERT INTO public.obt_result_parts VALUES ('0190-0', 'j2', 0, '\x706965636500', 6);
INSERT INTO public.obt_results VALUES (1, '0190-0', 'j1', '1111111111111111111111111111111111111111111111111111111111111111', true, 9.5, '\x7b226f6e65223a317d');
INSERT INTO public.obt_results VALUES (2, '0190-0', 'j1', '2222222222222222222222222222222222222222222222222222222222222222', false, 9.5, '\x7b2274776f223a327d00ff');
INSERT INTO public.obt_revision VALUES ('0009');
INSERT INTO public.obt_rollout_targets VALUES ('id', 'agent_id', 1099511627776, 'state', 1099511627776, 1099511627776, '\x7b2278223a317d');
INSERT INTO public.obt_rollouts VALUES ('id', 'key', 'action', 'model', 'destinatio', 'digest', '\x7b2278223a317d', 1099511627776, 'offline', 0.30000000000000004, 'model_set', 'state', 0.30000000000000004, 'created_by', 0.30000000000000004, true);
INSERT INTO public.obt_schedule_runs VALUES ('name', 0.30000000000000004, '\x7b2278223a317d');
INSERT INTO public.obt_schedules VALUES ('name', '\x7b2278223a317d');
INSERT INTO public.obt_schema VALUES (8);
INSERT INTO public.obt_sign_in_addresses VALUES ('ann', '10.0.0.1', 3);
INSERT INTO public.obt_sign_ins VALUES ('ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss', 'ann', 3, 1000000000000);
INSERT INTO public.obt_verdicts VALUES ('id', '\x7b2278223a317d');
SELECT pg_catalog.setval('public.obt_api_tokens_id_seq', 1, true);
SELECT pg_catalog.setval('public.obt_credentials_id_seq', 3, true);
SELECT pg_catalog.setval('public.obt_join_pins_position_seq', 1, true);
SELECT pg_catalog.setval('public.obt_join_tokens_id_seq', 3, true);
SELECT pg_catalog.setval('public.obt_model_changes_id_seq', 1, true);
SELECT pg_catalog.setval('public.obt_model_versions_id_seq', 2, true);
SELECT pg_catalog.setval('public.obt_regressions_id_seq', 1, true);
SELECT pg_catalog.setval('public.obt_results_id_seq', 2, true);
SELECT pg_catalog.setval('public.obt_schema_version_seq', 1, false);
ALTER TABLE ONLY public.obt_agents
    ADD CONSTRAINT obt_agents_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_api_tokens
    ADD CONSTRAINT obt_api_tokens_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_api_tokens
    ADD CONSTRAINT obt_api_tokens_sha256_key UNIQUE (sha256);
ALTER TABLE ONLY public.obt_baselines
    ADD CONSTRAINT obt_baselines_pkey PRIMARY KEY (agent_id, model, plan_hash);
ALTER TABLE ONLY public.obt_campaign_cells
    ADD CONSTRAINT obt_campaign_cells_pkey PRIMARY KEY (campaign_id, cell_id);
ALTER TABLE ONLY public.obt_campaigns
    ADD CONSTRAINT obt_campaigns_key_key UNIQUE (key);
ALTER TABLE ONLY public.obt_campaigns
    ADD CONSTRAINT obt_campaigns_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_change_causes
    ADD CONSTRAINT obt_change_causes_pkey PRIMARY KEY (agent_id, name);
ALTER TABLE ONLY public.obt_cluster
    ADD CONSTRAINT obt_cluster_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.obt_credentials
    ADD CONSTRAINT obt_credentials_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_credentials
    ADD CONSTRAINT obt_credentials_sha256_key UNIQUE (sha256);
ALTER TABLE ONLY public.obt_hardware
    ADD CONSTRAINT obt_hardware_pkey PRIMARY KEY (agent_id);
ALTER TABLE ONLY public.obt_jobs
    ADD CONSTRAINT obt_jobs_pkey PRIMARY KEY (agent_id, job_id);
ALTER TABLE ONLY public.obt_join_pins
    ADD CONSTRAINT obt_join_pins_pkey PRIMARY KEY ("position");
ALTER TABLE ONLY public.obt_join_tokens
    ADD CONSTRAINT obt_join_tokens_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_join_tokens
    ADD CONSTRAINT obt_join_tokens_sha256_key UNIQUE (sha256);
ALTER TABLE ONLY public.obt_leases
    ADD CONSTRAINT obt_leases_name_epoch_key UNIQUE (name, epoch);
ALTER TABLE ONLY public.obt_leases
    ADD CONSTRAINT obt_leases_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.obt_model_changes
    ADD CONSTRAINT obt_model_changes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_model_sets
    ADD CONSTRAINT obt_model_sets_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.obt_model_versions
    ADD CONSTRAINT obt_model_versions_agent_id_name_digest_key UNIQUE (agent_id, name, digest);
ALTER TABLE ONLY public.obt_model_versions
    ADD CONSTRAINT obt_model_versions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_operators
    ADD CONSTRAINT obt_operators_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.obt_plan_versions
    ADD CONSTRAINT obt_plan_versions_pkey PRIMARY KEY (name, version);
ALTER TABLE ONLY public.obt_regressions
    ADD CONSTRAINT obt_regressions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_replicas
    ADD CONSTRAINT obt_replicas_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_result_digests
    ADD CONSTRAINT obt_result_digests_pkey PRIMARY KEY (agent_id, job_id);
ALTER TABLE ONLY public.obt_result_parts
    ADD CONSTRAINT obt_result_parts_pkey PRIMARY KEY (agent_id, job_id, "offset");
ALTER TABLE ONLY public.obt_results
    ADD CONSTRAINT obt_results_agent_id_job_id_sha256_key UNIQUE (agent_id, job_id, sha256);
ALTER TABLE ONLY public.obt_results
    ADD CONSTRAINT obt_results_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_revision
    ADD CONSTRAINT obt_revision_pkey PRIMARY KEY (version_num);
ALTER TABLE ONLY public.obt_rollout_targets
    ADD CONSTRAINT obt_rollout_targets_pkey PRIMARY KEY (rollout_id, agent_id);
ALTER TABLE ONLY public.obt_rollouts
    ADD CONSTRAINT obt_rollouts_key_key UNIQUE (key);
ALTER TABLE ONLY public.obt_rollouts
    ADD CONSTRAINT obt_rollouts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.obt_schedule_runs
    ADD CONSTRAINT obt_schedule_runs_pkey PRIMARY KEY (schedule, due_at);
ALTER TABLE ONLY public.obt_schedules
    ADD CONSTRAINT obt_schedules_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.obt_schema
    ADD CONSTRAINT obt_schema_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.obt_sign_in_addresses
    ADD CONSTRAINT obt_sign_in_addresses_pkey PRIMARY KEY (operator, address);
ALTER TABLE ONLY public.obt_sign_ins
    ADD CONSTRAINT obt_sign_ins_pkey PRIMARY KEY (sha256);
ALTER TABLE ONLY public.obt_verdicts
    ADD CONSTRAINT obt_verdicts_pkey PRIMARY KEY (campaign_id);
CREATE INDEX ix_obt_agents_name ON public.obt_agents USING btree (name);
CREATE INDEX ix_obt_campaign_cells_state ON public.obt_campaign_cells USING btree (state);
CREATE INDEX ix_obt_campaigns_created_at ON public.obt_campaigns USING btree (created_at);
CREATE INDEX ix_obt_campaigns_schedule ON public.obt_campaigns USING btree (schedule);
CREATE INDEX ix_obt_campaigns_state ON public.obt_campaigns USING btree (state);
CREATE INDEX ix_obt_credentials_agent_id ON public.obt_credentials USING btree (agent_id);
CREATE INDEX ix_obt_jobs_created_at ON public.obt_jobs USING btree (created_at);
CREATE INDEX ix_obt_jobs_job_id ON public.obt_jobs USING btree (job_id);
CREATE INDEX ix_obt_jobs_model ON public.obt_jobs USING btree (model);
CREATE INDEX ix_obt_jobs_state ON public.obt_jobs USING btree (state);
CREATE INDEX ix_obt_plan_versions_hash ON public.obt_plan_versions USING btree (hash);
CREATE INDEX ix_obt_regressions_at ON public.obt_regressions USING btree (at);
CREATE INDEX ix_obt_rollout_targets_agent_id ON public.obt_rollout_targets USING btree (agent_id);
CREATE INDEX ix_obt_rollouts_created_at ON public.obt_rollouts USING btree (created_at);
CREATE INDEX ix_obt_rollouts_model ON public.obt_rollouts USING btree (model);
CREATE INDEX ix_obt_rollouts_state ON public.obt_rollouts USING btree (state);
CREATE INDEX ix_obt_sign_ins_expires_at ON public.obt_sign_ins USING btree (expires_at);
CREATE INDEX obt_changes_by_name ON public.obt_model_changes USING btree (name, id);
CREATE INDEX obt_changes_of_agent ON public.obt_model_changes USING btree (agent_id, id);
CREATE INDEX obt_regressions_of_line ON public.obt_regressions USING btree (agent_id, model, plan_hash, metric);
CREATE UNIQUE INDEX obt_results_accepted ON public.obt_results USING btree (agent_id, job_id) WHERE accepted;
CREATE INDEX obt_versions_by_name ON public.obt_model_versions USING btree (name);
CREATE INDEX obt_versions_of_agent ON public.obt_model_versions USING btree (agent_id, current, last_seen);
ALTER TABLE ONLY public.obt_api_tokens
    ADD CONSTRAINT obt_api_tokens_operator_fkey FOREIGN KEY (operator) REFERENCES public.obt_operators(name) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_baselines
    ADD CONSTRAINT obt_baselines_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_campaign_cells
    ADD CONSTRAINT obt_campaign_cells_campaign_id_fkey FOREIGN KEY (campaign_id) REFERENCES public.obt_campaigns(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_change_causes
    ADD CONSTRAINT obt_change_causes_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_credentials
    ADD CONSTRAINT obt_credentials_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_hardware
    ADD CONSTRAINT obt_hardware_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_jobs
    ADD CONSTRAINT obt_jobs_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_model_changes
    ADD CONSTRAINT obt_model_changes_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_model_versions
    ADD CONSTRAINT obt_model_versions_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_result_digests
    ADD CONSTRAINT obt_result_digests_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_result_parts
    ADD CONSTRAINT obt_result_parts_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_results
    ADD CONSTRAINT obt_results_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.obt_agents(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_rollout_targets
    ADD CONSTRAINT obt_rollout_targets_rollout_id_fkey FOREIGN KEY (rollout_id) REFERENCES public.obt_rollouts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_schedule_runs
    ADD CONSTRAINT obt_schedule_runs_schedule_fkey FOREIGN KEY (schedule) REFERENCES public.obt_schedules(name) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_sign_in_addresses
    ADD CONSTRAINT obt_sign_in_addresses_operator_fkey FOREIGN KEY (operator) REFERENCES public.obt_operators(name) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_sign_ins
    ADD CONSTRAINT obt_sign_ins_operator_fkey FOREIGN KEY (operator) REFERENCES public.obt_operators(name) ON DELETE CASCADE;
ALTER TABLE ONLY public.obt_verdicts
    ADD CONSTRAINT obt_verdicts_campaign_id_fkey FOREIGN KEY (campaign_id) REFERENCES public.obt_campaigns(id) ON DELETE CASCADE;
