BEGIN TRANSACTION;
CREATE TABLE obt_agents (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	given_name VARCHAR(200), 
	version VARCHAR(200) NOT NULL, 
	session INTEGER NOT NULL, 
	store_id VARCHAR(200), 
	capabilities VARCHAR NOT NULL, 
	labels VARCHAR NOT NULL, 
	own_labels VARCHAR NOT NULL, 
	enrolled_at DOUBLE NOT NULL, 
	last_seen DOUBLE, 
	rotation_requested_at DOUBLE, 
	models_at DOUBLE, replica VARCHAR(64), 
	PRIMARY KEY (id)
);
INSERT INTO "obt_agents" VALUES('0190-0','box',NULL,'1.0',1,'st','["a","b"]','[]','[]',1700000000.3,1700000001.7,NULL,6.0,'r1');
INSERT INTO "obt_agents" VALUES('0190-1','Ångström',NULL,'1.0',0,NULL,'[]','[]','[]',1700000000.3,NULL,NULL,NULL,NULL);
INSERT INTO "obt_agents" VALUES('0190-2','box (0190-2)',NULL,'1.0',0,NULL,'[]','[]','[]',1700000000.3,NULL,NULL,NULL,NULL);
CREATE TABLE obt_api_tokens (
	id INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	operator VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE, 
	last_used_at DOUBLE, 
	scope VARCHAR(16) NOT NULL, 
	machines VARCHAR NOT NULL, 
	models VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (sha256), 
	FOREIGN KEY(operator) REFERENCES obt_operators (name) ON DELETE CASCADE
);
INSERT INTO "obt_api_tokens" VALUES(1,'tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt','ci','ann',2.5,NULL,NULL,'operator','[]','[]');
CREATE TABLE obt_baselines (
	agent_id VARCHAR(64) NOT NULL, 
	model VARCHAR(512) NOT NULL, 
	plan_hash VARCHAR(64) NOT NULL, 
	job_id VARCHAR(128) NOT NULL, 
	at DOUBLE NOT NULL, 
	"by" VARCHAR(200) NOT NULL, 
	PRIMARY KEY (agent_id, model, plan_hash), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_baselines" VALUES('0190-0','model','plan_hash','job_id',3.00000000000000044408e-01,'by');
CREATE TABLE obt_campaign_cells (
	campaign_id VARCHAR(64) NOT NULL, 
	cell_id VARCHAR(16) NOT NULL, 
	position INTEGER NOT NULL, 
	agent_id VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	job_id VARCHAR(128), 
	detail BLOB NOT NULL, 
	PRIMARY KEY (campaign_id, cell_id), 
	FOREIGN KEY(campaign_id) REFERENCES obt_campaigns (id) ON DELETE CASCADE
);
INSERT INTO "obt_campaign_cells" VALUES('id','cell_id',1099511627776,'agent_id','state','job_id',X'7B2278223A317D');
CREATE TABLE obt_campaigns (
	id VARCHAR(64) NOT NULL, 
	"key" VARCHAR(128), 
	schedule VARCHAR(64), 
	state VARCHAR(16) NOT NULL, 
	judged BOOLEAN NOT NULL, 
	created_at DOUBLE NOT NULL, 
	content BLOB NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE ("key")
);
INSERT INTO "obt_campaigns" VALUES('id','key','schedule','state',1,3.00000000000000044408e-01,X'7B2278223A317D');
CREATE TABLE obt_change_causes (
	agent_id VARCHAR(64) NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	job_id VARCHAR(128), 
	rollout_id VARCHAR(64), 
	model_set VARCHAR(64), 
	operator VARCHAR(200), 
	expires_at DOUBLE NOT NULL, 
	PRIMARY KEY (agent_id, name), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_change_causes" VALUES('0190-0','name','job_id','rollout_id','model_set','operator',3.00000000000000044408e-01);
CREATE TABLE obt_cluster (
	number INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "obt_cluster" VALUES(1,'c0ffee');
CREATE TABLE obt_credentials (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	agent_id VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	last_used_at DOUBLE, 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE, 
	UNIQUE (sha256)
);
INSERT INTO "obt_credentials" VALUES(1,'0190-0','0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f','current',1700000000.3,1700000001.7);
INSERT INTO "obt_credentials" VALUES(2,'0190-1','1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f','current',1700000000.3,NULL);
INSERT INTO "obt_credentials" VALUES(3,'0190-2','2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f','current',1700000000.3,NULL);
CREATE TABLE obt_hardware (
	agent_id VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	inventory BLOB NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	PRIMARY KEY (agent_id), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_hardware" VALUES('0190-0','fp',X'7B2261223A22C385227D',7.0);
CREATE TABLE obt_jobs (
	agent_id VARCHAR(64) NOT NULL, 
	job_id VARCHAR(128) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	params BLOB NOT NULL, 
	model VARCHAR(512), 
	model_digest VARCHAR(128), 
	created_at DOUBLE NOT NULL, 
	started_session INTEGER, 
	finished_at DOUBLE, 
	error BLOB, 
	bytes INTEGER, 
	sha256 VARCHAR(64), 
	PRIMARY KEY (agent_id, job_id), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_jobs" VALUES('0190-0','j1','benchmark','completed',X'7B226A6F625F6964223A2278227D','a:1','d1',8.125,NULL,9.5,NULL,9,'1111111111111111111111111111111111111111111111111111111111111111');
INSERT INTO "obt_jobs" VALUES('0190-0','j2','benchmark','starting',X'7B226A6F625F6964223A2278227D','a:1',NULL,8.125,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE obt_join_pins (
	position INTEGER NOT NULL, 
	pin VARCHAR(64) NOT NULL, 
	PRIMARY KEY (position)
);
INSERT INTO "obt_join_pins" VALUES(1,'pin');
CREATE TABLE obt_join_tokens (
	id INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	note VARCHAR(200) NOT NULL, 
	agent_id VARCHAR(64), 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	revoked_at DOUBLE, 
	used_at DOUBLE, 
	used_by VARCHAR(64), 
	used_secret_sha256 VARCHAR(64), 
	PRIMARY KEY (id), 
	UNIQUE (sha256)
);
INSERT INTO "obt_join_tokens" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000000','n',NULL,1.0,1000000000000.0,NULL,1700000000.3,'0190-0','0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f');
INSERT INTO "obt_join_tokens" VALUES(2,'1111111111111111111111111111111111111111111111111111111111111111','n',NULL,1.0,1000000000000.0,NULL,1700000000.3,'0190-1','1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f');
INSERT INTO "obt_join_tokens" VALUES(3,'2222222222222222222222222222222222222222222222222222222222222222','n',NULL,1.0,1000000000000.0,NULL,1700000000.3,'0190-2','2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f');
CREATE TABLE obt_leases (
	name VARCHAR(32) NOT NULL, 
	holder VARCHAR(64) NOT NULL, 
	epoch INTEGER NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	PRIMARY KEY (name), 
	UNIQUE (name, epoch)
);
INSERT INTO "obt_leases" VALUES('leader','r1',3,1700000003.25);
CREATE TABLE obt_model_changes (
	id INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	agent_id VARCHAR(64) NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	digest_before VARCHAR(128), 
	digest_after VARCHAR(128), 
	rollout_id VARCHAR(64), 
	model_set VARCHAR(64), 
	operator VARCHAR(200), 
	PRIMARY KEY (id), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_model_changes" VALUES(1,6.0,'0190-0','a:1','d1','d2',NULL,NULL,NULL);
CREATE TABLE obt_model_sets (
	name VARCHAR(64) NOT NULL, 
	content BLOB NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "obt_model_sets" VALUES('name',X'7B2278223A317D');
CREATE TABLE obt_model_versions (
	id INTEGER NOT NULL, 
	agent_id VARCHAR(64) NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	digest VARCHAR(128) NOT NULL, 
	current BOOLEAN NOT NULL, 
	first_seen DOUBLE NOT NULL, 
	last_seen DOUBLE NOT NULL, 
	details BLOB NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (agent_id, name, digest), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_model_versions" VALUES(1,'0190-0','a:1','d1',0,5.0,5.0,X'7B226E616D65223A22613A31222C22646967657374223A226431222C2273697A655F6279746573223A313039393531313632373737367D');
INSERT INTO "obt_model_versions" VALUES(2,'0190-0','a:1','d2',1,6.0,6.0,X'7B226E616D65223A22613A31222C22646967657374223A226432222C2273697A655F6279746573223A313039393531313632373737367D');
CREATE TABLE obt_operators (
	name VARCHAR(64) NOT NULL, 
	password VARCHAR NOT NULL, 
	created_at DOUBLE NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "obt_operators" VALUES('ann','scrypt$hash',1.25);
CREATE TABLE obt_plan_versions (
	name VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	hash VARCHAR(64), 
	"plan" BLOB NOT NULL, 
	comment VARCHAR(500), 
	saved_at DOUBLE NOT NULL, 
	saved_by VARCHAR(200) NOT NULL, 
	deleted BOOLEAN NOT NULL, 
	PRIMARY KEY (name, version)
);
INSERT INTO "obt_plan_versions" VALUES('name',1,'hash',X'7B2278223A317D','comment',3.00000000000000044408e-01,'saved_by',1);
CREATE TABLE obt_regressions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	campaign_id VARCHAR(64) NOT NULL, 
	at DOUBLE NOT NULL, 
	last_at DOUBLE NOT NULL, 
	last_campaign_id VARCHAR(64) NOT NULL, 
	agent_id VARCHAR(64) NOT NULL, 
	model VARCHAR(512) NOT NULL, 
	plan_hash VARCHAR(64) NOT NULL, 
	metric VARCHAR(64) NOT NULL, 
	verdict BLOB NOT NULL, 
	acknowledged BLOB
);
INSERT INTO "obt_regressions" VALUES(1,'campaign_i',3.00000000000000044408e-01,3.00000000000000044408e-01,'last_campa','agent_id','model','plan_hash','metric',X'7B2278223A317D',X'7B2278223A317D');
CREATE TABLE obt_replicas (
	id VARCHAR(64) NOT NULL, 
	seen_at DOUBLE NOT NULL, 
	beats INTEGER NOT NULL, 
	"left" BOOLEAN NOT NULL, 
	state BLOB NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "obt_replicas" VALUES('r1',1700000002.5,7,0,X'8101');
CREATE TABLE obt_result_digests (
	agent_id VARCHAR(64) NOT NULL, 
	job_id VARCHAR(128) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	digest BLOB NOT NULL, 
	PRIMARY KEY (agent_id, job_id), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_result_digests" VALUES('0190-0','job_id','sha256',X'7B2278223A317D');
CREATE TABLE obt_result_parts (
	agent_id VARCHAR(64) NOT NULL, 
	job_id VARCHAR(128) NOT NULL, 
	"offset" INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	size INTEGER NOT NULL, 
	PRIMARY KEY (agent_id, job_id, "offset"), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_result_parts" VALUES('0190-0','j2',0,X'706965636500',6);
CREATE TABLE obt_results (
	id INTEGER NOT NULL, 
	agent_id VARCHAR(64) NOT NULL, 
	job_id VARCHAR(128) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	accepted BOOLEAN NOT NULL, 
	stored_at DOUBLE NOT NULL, 
	text BLOB NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (agent_id, job_id, sha256), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_results" VALUES(1,'0190-0','j1','1111111111111111111111111111111111111111111111111111111111111111',1,9.5,X'7B226F6E65223A317D');
INSERT INTO "obt_results" VALUES(2,'0190-0','j1','2222222222222222222222222222222222222222222222222222222222222222',0,9.5,X'7B2274776F223A327D00FF');
CREATE TABLE obt_revision (
	version_num VARCHAR(32) NOT NULL, 
	PRIMARY KEY (version_num)
);
INSERT INTO "obt_revision" VALUES('0009');
CREATE TABLE obt_rollout_targets (
	rollout_id VARCHAR(64) NOT NULL, 
	agent_id VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	completed_bytes INTEGER, 
	total_bytes INTEGER, 
	detail BLOB NOT NULL, 
	PRIMARY KEY (rollout_id, agent_id), 
	FOREIGN KEY(rollout_id) REFERENCES obt_rollouts (id) ON DELETE CASCADE
);
INSERT INTO "obt_rollout_targets" VALUES('id','agent_id',1099511627776,'state',1099511627776,1099511627776,X'7B2278223A317D');
CREATE TABLE obt_rollouts (
	id VARCHAR(64) NOT NULL, 
	"key" VARCHAR(128), 
	action VARCHAR(16) NOT NULL, 
	model VARCHAR(512) NOT NULL, 
	destination VARCHAR(512), 
	digest VARCHAR(128), 
	spec BLOB, 
	parallelism INTEGER NOT NULL, 
	offline VARCHAR(16) NOT NULL, 
	until DOUBLE, 
	model_set VARCHAR(64), 
	state VARCHAR(16) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	created_by VARCHAR(200) NOT NULL, 
	finished_at DOUBLE, 
	cancelling BOOLEAN NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE ("key")
);
INSERT INTO "obt_rollouts" VALUES('id','key','action','model','destinatio','digest',X'7B2278223A317D',1099511627776,'offline',3.00000000000000044408e-01,'model_set','state',3.00000000000000044408e-01,'created_by',3.00000000000000044408e-01,1);
CREATE TABLE obt_schedule_runs (
	schedule VARCHAR(64) NOT NULL, 
	due_at DOUBLE NOT NULL, 
	detail BLOB NOT NULL, 
	PRIMARY KEY (schedule, due_at), 
	FOREIGN KEY(schedule) REFERENCES obt_schedules (name) ON DELETE CASCADE
);
INSERT INTO "obt_schedule_runs" VALUES('name',3.00000000000000044408e-01,X'7B2278223A317D');
CREATE TABLE obt_schedules (
	name VARCHAR(64) NOT NULL, 
	content BLOB NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "obt_schedules" VALUES('name',X'7B2278223A317D');
CREATE TABLE obt_schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "obt_schema" VALUES(8);
CREATE TABLE obt_sign_in_addresses (
	operator VARCHAR(64) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	last_at DOUBLE NOT NULL, 
	PRIMARY KEY (operator, address), 
	FOREIGN KEY(operator) REFERENCES obt_operators (name) ON DELETE CASCADE
);
INSERT INTO "obt_sign_in_addresses" VALUES('ann','10.0.0.1',3.0);
CREATE TABLE obt_sign_ins (
	sha256 VARCHAR(64) NOT NULL, 
	operator VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	PRIMARY KEY (sha256), 
	FOREIGN KEY(operator) REFERENCES obt_operators (name) ON DELETE CASCADE
);
INSERT INTO "obt_sign_ins" VALUES('ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss','ann',3.0,1000000000000.0);
CREATE TABLE obt_verdicts (
	campaign_id VARCHAR(64) NOT NULL, 
	content BLOB NOT NULL, 
	PRIMARY KEY (campaign_id), 
	FOREIGN KEY(campaign_id) REFERENCES obt_campaigns (id) ON DELETE CASCADE
);
INSERT INTO "obt_verdicts" VALUES('id',X'7B2278223A317D');
CREATE INDEX ix_obt_agents_name ON obt_agents (name);
CREATE INDEX ix_obt_plan_versions_hash ON obt_plan_versions (hash);
CREATE INDEX ix_obt_rollouts_state ON obt_rollouts (state);
CREATE INDEX ix_obt_rollouts_model ON obt_rollouts (model);
CREATE INDEX ix_obt_rollouts_created_at ON obt_rollouts (created_at);
CREATE INDEX ix_obt_campaigns_state ON obt_campaigns (state);
CREATE INDEX ix_obt_campaigns_schedule ON obt_campaigns (schedule);
CREATE INDEX ix_obt_campaigns_created_at ON obt_campaigns (created_at);
CREATE INDEX ix_obt_regressions_at ON obt_regressions (at);
CREATE INDEX obt_regressions_of_line ON obt_regressions (agent_id, model, plan_hash, metric);
CREATE INDEX ix_obt_credentials_agent_id ON obt_credentials (agent_id);
CREATE INDEX obt_versions_of_agent ON obt_model_versions (agent_id, current, last_seen);
CREATE INDEX obt_versions_by_name ON obt_model_versions (name);
CREATE INDEX ix_obt_jobs_model ON obt_jobs (model);
CREATE INDEX ix_obt_jobs_state ON obt_jobs (state);
CREATE INDEX ix_obt_jobs_created_at ON obt_jobs (created_at);
CREATE INDEX ix_obt_jobs_job_id ON obt_jobs (job_id);
CREATE UNIQUE INDEX obt_results_accepted ON obt_results (agent_id, job_id) WHERE accepted;
CREATE INDEX ix_obt_rollout_targets_agent_id ON obt_rollout_targets (agent_id);
CREATE INDEX ix_obt_campaign_cells_state ON obt_campaign_cells (state);
CREATE INDEX obt_changes_of_agent ON obt_model_changes (agent_id, id);
CREATE INDEX obt_changes_by_name ON obt_model_changes (name, id);
CREATE INDEX ix_obt_sign_ins_expires_at ON obt_sign_ins (expires_at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('obt_regressions',1);
INSERT INTO "sqlite_sequence" VALUES('obt_credentials',3);
COMMIT;
