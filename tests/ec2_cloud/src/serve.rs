//! One connection to the proxy: its requests, one after the other.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use crate::calls::Call;
use crate::fault::Fault;
use crate::http::Message;
use crate::proxy::{Shared, locked};

/// An error in EC2's form.
pub(crate) fn error_answer(status: u16, code: &str, message: &str) -> Message {
    use quick_xml::escape::escape;
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors>\
         <RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>",
        escape(code),
        escape(message)
    );
    Message::answer(status, "text/xml;charset=UTF-8", body.as_bytes())
}

/// Until the client or the proxy ends it, or a fault does.
pub(crate) fn serve(shared: &Shared, stream: &TcpStream, connection: usize) -> io::Result<()> {
    // What is sent in pieces arrives in pieces.
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = Message::read(&mut reader)? {
        let number = shared.calls.with(|calls| {
            calls.push(record(&request, connection, calls.len()));
            calls.len() - 1
        });
        let goes_on = answer(shared, stream, number, &request);
        shared.calls.with(|calls| calls[number].finished = true);
        let close = request.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !goes_on? || close {
            break;
        }
    }
    Ok(())
}

fn record(request: &Message, connection: usize, number: usize) -> Call {
    let parameters = form_urlencoded::parse(&request.body).into_owned().collect::<std::collections::BTreeMap<_, _>>();
    Call {
        number,
        action: parameters.get("Action").cloned().unwrap_or_default(),
        parameters,
        at: Instant::now(),
        connection,
        authorization: request.header("Authorization").map(str::to_owned),
        token: request.header("X-Amz-Security-Token").map(str::to_owned),
        forwarded: false,
        status: None,
        answer: String::new(),
        finished: false,
    }
}

/// Whether the connection may go on.
fn answer(shared: &Shared, mut stream: &TcpStream, number: usize, request: &Message) -> io::Result<bool> {
    let call = shared.calls.with(|calls| calls[number].clone());
    let fault = locked(&shared.rules).judge(&call);
    let made = match &fault {
        Some(Fault::Drop) => return Ok(false),
        Some(Fault::Hang) => return hang(stream),
        Some(Fault::Error { status, code, message }) => Some(error_answer(*status, code, message)),
        Some(Fault::Answer { status, content_type, body }) => {
            Some(Message::answer(*status, content_type, body.as_bytes()))
        }
        Some(Fault::HoldRequest(gate)) => {
            gate.wait();
            None
        }
        _ => None,
    };
    let mut answer = match made {
        Some(answer) => answer,
        None => forward(shared, &call, request)?,
    };
    if let Some(Fault::AnswerAfter { status, content_type, body }) = &fault {
        answer = Message::answer(*status, content_type, body.as_bytes());
    }
    shared.calls.with(|calls| {
        calls[number].status = Some(answer.status());
        calls[number].answer = String::from_utf8_lossy(&answer.body).into_owned();
    });
    let bytes = answer.bytes();
    match fault {
        Some(Fault::CutAfter(length)) => {
            stream.write_all(&bytes[..length.min(bytes.len())])?;
            return Ok(false);
        }
        Some(Fault::HangAfter) => return hang(stream),
        Some(Fault::HoldAnswer(gate)) => gate.wait(),
        Some(Fault::Trickle { piece, pause }) => {
            for piece in bytes.chunks(piece.max(1)) {
                if shared.closing.wait_for(pause) {
                    return Ok(false);
                }
                stream.write_all(piece)?;
            }
            return Ok(true);
        }
        _ => {}
    }
    stream.write_all(&bytes)?;
    Ok(true)
}

/// The server's answer, or one that is known without it, as EC2 would give it.
fn forward(shared: &Shared, call: &Call, request: &Message) -> io::Result<Message> {
    if let Some(known) = locked(&shared.eventual).known(call) {
        return Ok(known);
    }
    let answer = request.forward(shared.target)?;
    let answer = locked(&shared.eventual).change(call, answer);
    shared.calls.with(|calls| calls[call.number].forwarded = true);
    if !call.action.starts_with("Describe") {
        shared.changes.with(|changes| *changes += 1);
    }
    Ok(answer)
}

/// Until the client goes away, or the proxy closes the socket.
fn hang(mut stream: &TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer)? > 0 {}
    let _ = stream.shutdown(Shutdown::Both);
    Ok(false)
}
