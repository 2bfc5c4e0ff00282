# A warning is not heeded.
cast: solo
lesson: [it is wise to listen|those who love us want to keep us safe|a warning is a gift]

<home> {Hero.his} {grown.bare} always said, "Do not {forbid}." But {hero} did not listen.
<home> <oneday>, {grown} said, "I have to go out. [Be good|Please be careful]. And do not {forbid}." "Yes, {grown.call}," said {hero}.
{Hero.full} never listened. "Do not {forbid}," said {grown}. But {hero} [only laughed|did not care|thought it would be fun].

When {grown} was away, {hero} thought, "[Just a little bit.|Nobody will see me.|Only one time.|What can happen?]"
{Hero} waited until {grown} was [gone|busy|asleep]. "[Nobody sees me|It will be fun|Just this once]," {hero.he} said.
{Friend.intro} [heard it|was there]. "[Don't do it|I would not do that|You will be sorry]," said {friend}. But {hero} [laughed|did not listen].

So {hero.he} did it. [At first, it was fun|It was great fun|Nothing happened]. But then {hero.he} {forbid.then}!
{Hero.he} [looked left and right|went on tiptoe|giggled]. And then it happened. {Hero.he} {forbid.then}!

"[Help|Oh no|Oh dear|Help me]!" cried {hero}. {Hero.he} was {forbid.feel}.
Now {hero} was {forbid.feel}. "I wish I had listened," {hero.he} said.

--
{Grown} [heard {hero.him}|came as fast as {grown.he} could|came running]. {Grown.he} [helped {hero.him}|took {hero.him} home|took care of {hero.him}]. 
Luckily, {wise.first} was near. {Wise.he} helped {hero} and brought {hero.him} home to {grown}.
{Small.a} saw it and ran to get help. Soon {grown} came and helped {hero.him}.

"I am sorry," said {hero}. "[I did not listen|You were right|I will listen next time]."
"[What did you do|Are you all right|What happened]?" asked {grown}. {Hero} told the truth and said, "I am very sorry."

{Grown} [hugged {hero.him}|was not angry|dried {hero.his} tears]. "[I only want you to be safe|I am glad that you are safe|Now you know why I said it]," said {grown}.
"[I was so worried|I am glad you are all right]," said {grown}. "[Next time, please listen to me|I say these things because I love you]."

?
<moral>
<moral>
<moral>
From then on, {hero} listened to {grown}.
And {hero} never did it again.
