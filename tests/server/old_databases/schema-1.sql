BEGIN TRANSACTION;
CREATE TABLE obt_agents (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	version VARCHAR(200) NOT NULL, 
	session INTEGER NOT NULL, 
	store_id VARCHAR(200), 
	capabilities VARCHAR NOT NULL, 
	enrolled_at DOUBLE NOT NULL, 
	last_seen DOUBLE, 
	rotation_requested_at DOUBLE, 
	PRIMARY KEY (id)
);
INSERT INTO "obt_agents" VALUES('0190-0','box','1.0',1,'st','["a"]',1700000000.3,1700000001.7,NULL);
CREATE TABLE obt_api_tokens (
	id INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	operator VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE, 
	last_used_at DOUBLE, 
	PRIMARY KEY (id), 
	UNIQUE (sha256), 
	FOREIGN KEY(operator) REFERENCES obt_operators (name) ON DELETE CASCADE
);
INSERT INTO "obt_api_tokens" VALUES(1,'tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt','ci','ann',2.5,NULL,NULL);
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
INSERT INTO "obt_credentials" VALUES(1,'0190-0','0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f','current',1700000000.3,NULL);
CREATE TABLE obt_hardware (
	agent_id VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	inventory BLOB NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	PRIMARY KEY (agent_id), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
INSERT INTO "obt_hardware" VALUES('0190-0','fp',X'7B2261223A317D',7.0);
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
CREATE TABLE obt_operators (
	name VARCHAR(64) NOT NULL, 
	password VARCHAR NOT NULL, 
	created_at DOUBLE NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "obt_operators" VALUES('ann','scrypt$hash',1.25);
CREATE TABLE obt_result_parts (
	agent_id VARCHAR(64) NOT NULL, 
	job_id VARCHAR(128) NOT NULL, 
	"offset" INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	size INTEGER NOT NULL, 
	PRIMARY KEY (agent_id, job_id, "offset"), 
	FOREIGN KEY(agent_id) REFERENCES obt_agents (id) ON DELETE CASCADE
);
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
INSERT INTO "obt_results" VALUES(2,'0190-0','j1','2222222222222222222222222222222222222222222222222222222222222222',0,9.5,X'7B2274776F223A327D');
CREATE TABLE obt_schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "obt_schema" VALUES(1);
CREATE TABLE obt_sign_ins (
	sha256 VARCHAR(64) NOT NULL, 
	operator VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	PRIMARY KEY (sha256), 
	FOREIGN KEY(operator) REFERENCES obt_operators (name) ON DELETE CASCADE
);
CREATE INDEX ix_obt_agents_name ON obt_agents (name);
CREATE INDEX ix_obt_credentials_agent_id ON obt_credentials (agent_id);
CREATE INDEX obt_versions_by_name ON obt_model_versions (name);
CREATE INDEX ix_obt_jobs_job_id ON obt_jobs (job_id);
CREATE INDEX ix_obt_jobs_state ON obt_jobs (state);
CREATE INDEX ix_obt_jobs_created_at ON obt_jobs (created_at);
CREATE INDEX ix_obt_jobs_model ON obt_jobs (model);
CREATE INDEX ix_obt_sign_ins_expires_at ON obt_sign_ins (expires_at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('obt_credentials',1);
COMMIT;
